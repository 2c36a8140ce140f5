// What a person sees in the browser when llama-server was built without its page.
#pragma once

#include <cpp-httplib/httplib.h>

#include <string>

static inline void tmac_serve_sentence(httplib::Server & server, const std::string & prefix) {
    static const char * const html =
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>llama-server with T-MAC</title>"
        "<body style=\"font-family: sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em\">"
        "<p>The server runs, and programs can use it: its OpenAI-compatible API is below <code>/v1</code>.</p>"
        "<p>This build has no page to chat at. To add it, stop the server, run <code>tmac build --ui</code>, "
        "which needs npm, and start the server again.</p></body></html>\n";
    const auto answer = [](const httplib::Request &, httplib::Response & response) {
        response.set_content(html, "text/html; charset=utf-8");
    };
    server.Get(prefix + "/", answer);
    server.Get(prefix + "/index.html", answer);
}
