"""`tmac serve`: who can ask the server, what is printed, and what never is."""

import argparse

import pytest

from tmac.common import process
from tmac.common.errors import TmacError
from tmac.tools import cli
from tmac.tools.errors import ToolError
from tmac.tools.llama import serving
from tmac.tools.llama.build import Build


@pytest.fixture
def build(tmp_path):
    """A build whose llama-server records its arguments and keys, and says that it listens elsewhere than asked."""
    binary = tmp_path / "bin" / "llama-server"
    binary.parent.mkdir()

    def make(code=0):
        binary.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho "$LLAMA_API_KEY" > {tmp_path}/keys\n'
            f'echo "0.00.1 I srv  llama_server: listening on http://127.0.0.1:4711"\nexit {code}\n'
        )
        binary.chmod(0o755)
        return Build(tmp_path)

    return make


def serve(build, arguments=(), host="127.0.0.1", port=0):
    serving.serve(build, ["-m", build.folder / "m.gguf"], list(arguments), {}, host, port)
    return (build.folder / "arguments").read_text().split(), (build.folder / "keys").read_text().strip()


def test_keys_reach_the_server_by_its_environment_alone(build, capfd, monkeypatch, work):
    """Neither the printed command nor the arguments nor the log have them; a key of the environment is kept."""
    monkeypatch.setenv("LLAMA_API_KEY", "old-secret")
    arguments, keys = serve(build(), ["-c", "512", "--api-key", "sk-secret", "--api-key=two-secret"])
    assert keys == "old-secret,sk-secret,two-secret" and arguments[-2:] == ["-c", "512"]
    said = capfd.readouterr()
    assert "llama-server" in said.err and "secret" not in said.out + said.err + " ".join(arguments)
    assert "secret" not in (work / "logs" / "serve.log").read_text()


@pytest.mark.parametrize("option", process.SECRET_OPTIONS)
def test_no_command_line_shows_a_secret(option):
    """Whoever starts the program, and wherever the value stands."""
    assert process.command_line(["llama", option, "s3cret", "-c", "1"], {"HF_TOKEN": "s3cret"}) == (
        f"llama {option} '***' -c 1"
    )


def test_options_of_the_command_reach_the_server():
    """Also without --, so that no message about unknown arguments shows a key."""
    parser = argparse.ArgumentParser()
    serving.add_arguments(parser)
    args = parser.parse_args(["--api-key", "a", "--api-key", "b", "--api-key-file", "f", "--cors-origins", "*"])
    assert serving.chosen(args) == ["--api-key", "a", "--api-key", "b", "--api-key-file", "f", "--cors-origins", "*"]
    assert serving.chosen(parser.parse_args([])) == []


def test_key_option_without_a_key_is_refused(build):
    with pytest.raises(ToolError, match="--api-key has no key"):
        serve(build(), ["--api-key"])


def test_address_is_printed_when_the_server_says_it(build, capfd):
    serve(build())
    said = capfd.readouterr().err
    assert "open http://127.0.0.1:4711 in a browser; programs use the OpenAI API at http://127.0.0.1:4711/v1" in said


def test_only_local_pages_may_ask_unless_chosen(build, monkeypatch):
    """By option or by llama.cpp's variable the user has the say."""
    assert serve(build())[0][-2:] == ["--cors-origins", "localhost"]
    chosen = serve(build(), ["--cors-origins", "https://a.example"])[0]
    assert chosen.count("--cors-origins") == 1 and chosen[-1] == "https://a.example"
    monkeypatch.setenv("LLAMA_ARG_CORS_ORIGINS", "*")
    assert "--cors-origins" not in serve(build())[0]


@pytest.mark.parametrize(
    "hosts, is_open",
    [
        ("127.0.0.1", False),
        ("localhost", False),
        ("127.8.0.1,::1", False),
        ("[::1]", False),
        ("/run/llama.sock", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.4", True),
        ("example.org", True),
        ("127.0.0.1,10.0.0.1", True),
    ],
)
def test_warning_for_an_open_address_without_key(hosts, is_open, build, capfd, monkeypatch):
    """Only an address of this machine alone, or a key, is safe."""
    monkeypatch.delenv("LLAMA_API_KEY", raising=False)
    serve(build(), host=hosts)
    assert ("it has no API key" in capfd.readouterr().err) is is_open
    for safe in (["--api-key", "x"], ["--api-key-file", "keys.txt"]):
        serve(build(), safe, host=hosts)
        assert "it has no API key" not in capfd.readouterr().err
    monkeypatch.setenv("LLAMA_API_KEY", "x")
    serve(build(), host=hosts)
    assert "it has no API key" not in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--top-k", "1", "--host=0.0.0.0"]])
def test_warning_for_an_open_address_after_dashes(arguments, build, capfd, monkeypatch):
    """`tmac serve MODEL -- --host 0.0.0.0`: llama-server listens at the last address that it is given."""
    monkeypatch.delenv("LLAMA_API_KEY", raising=False)
    serve(build(), arguments)
    assert "everybody who reaches 0.0.0.0" in capfd.readouterr().err
    serve(build(), [*arguments, "--host", "127.0.0.1"])
    assert "it has no API key" not in capfd.readouterr().err


def test_server_that_ends_by_itself_is_an_error(build):
    with pytest.raises(TmacError, match="llama-server ended with exit code 1") as caught:
        serve(build(code=1), port=8080)
    assert "--port 0 takes a free one" in caught.value.hint


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "http"])
def test_port_out_of_range_is_a_wrong_argument(port, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "m.gguf", "--port", port])
    assert caught.value.code == 2 and "--port" in capsys.readouterr().err


def test_layers_are_not_served_at_any_free_port(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["rpc-server", "--port", "0"])
    assert caught.value.code == 2 and "0 is no port that another machine could be told" in capsys.readouterr().err


@pytest.mark.parametrize("servers", ["", "10.0.0.2", ":50052", "10.0.0.2:0", "10.0.0.2:99999", "a:1,,b:2", "::1:50052"])
def test_wrong_server_of_layers_is_a_wrong_argument(servers, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "m.gguf", "-p", "x", "--rpc", servers])
    assert caught.value.code == 2 and "expected HOST:PORT" in capsys.readouterr().err
