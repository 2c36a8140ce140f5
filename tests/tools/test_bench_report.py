"""The tables of `tmac bench model`, by hand."""

from dataclasses import asdict, replace

from tmac.tools.bench import model_report
from tmac.tools.bench.model_benchmark import ModelResult
from tmac.tools.bench.model_run import Sample
from tmac.tools.bench.shapes import SHAPES


def shown(name, phase, tokens, sequences, speed, **changes):
    """A result with one thread, each of whose numbers was measured only once."""
    tmac = name.startswith("w")
    kernels = ["tmac_gemv_w2g128_tables_avx2", "tmac_gemm_w2g128_tables_avx2"] if tmac else []
    result = ModelResult(
        name,
        tmac,
        2.125 if tmac else 2.0625,
        440_000_000,
        phase,
        tokens,
        sequences,
        1,
        speed,
        None,
        None,
        kernels,
        {},
        {},
        1,
        None,
        False,
        [Sample(speed, None, 1)],
    )
    return asdict(replace(result, **changes))


def tables_of(*results):
    report = {
        "cpu": "Some CPU",
        "instruction_sets": ["avx2", "scalar"],
        "compiler": "c++ 12",
        "forced_kernel": "avx2",
        "precision": "fast",
        "shape": asdict(SHAPES["llama-2-7b"]),
        "layers": 8,
        "vocabulary": 1024,
        "rounds": 5,
        "results": results,
    }
    return model_report.render(report)


def test_decode_table_by_hand():
    """Fixed numbers: rounding, alignment, and empty cells."""
    text = tables_of(
        shown(
            "w2g128",
            "decode",
            64,
            1,
            77.06,
            cpu_s_per_token=0.01291,
            gb_per_s=33.94,
            ratios={"TQ2_0": 1.926, "Q2_K": 2.504},
        ),
        shown("TQ2_0", "decode", 64, 1, 40.01, gb_per_s=17.05),
    )
    assert text.startswith("""\
# llama-2-7b shape, 8 layers, vocabulary 1024, random weights

Some CPU; instruction sets with kernels: avx2, scalar; c++ 12; 1 thread; 5 rounds; forced: avx2; precision: fast.

## Decode, 64 tokens

| type   | bits/weight | model MB | threads | tok/s | GB/s | CPU-ms/token | times as fast             |
| :----- | ----------: | -------: | ------: | ----: | ---: | -----------: | :------------------------ |
| w2g128 |       2.125 |      440 |       1 |  77.1 | 33.9 |        12.91 | 1.93 x TQ2_0, 2.50 x Q2_K |
| TQ2_0  |       2.062 |      440 |       1 |  40.0 | 17.1 |              |                           |

## Kernels

- w2g128: tmac_gemv_w2g128_tables_avx2, tmac_gemm_w2g128_tables_avx2

Medians of alternating rounds; """)


def test_prompt_tables_by_hand():
    """One column per size; a rise is reported."""
    text = tables_of(
        shown("w2g128", "prompt", 1, 1, 50.04, ratios={"TQ2_0": 1.251}, fastest_stock={"Q4_0": 1.111}),
        shown("TQ2_0", "prompt", 1, 1, 40),
        shown(
            "w2g128",
            "prompt",
            512,
            1,
            45,
            ratios={"TQ2_0": 2.004},
            fastest_stock={"TQ2_0": 2.004},
            gain=0.9,
            slowdown=1.111,
            rises=True,
        ),
        shown("TQ2_0", "prompt", 512, 1, 20, gain=0.5, slowdown=2, rises=True),
    )
    assert (
        """
## Prompts, 1 thread: tokens/s by the tokens of the prompt

| type   | bits/weight |    1 |  512 |
| :----- | ----------: | ---: | ---: |
| w2g128 |       2.125 | 50.0 | 45.0 |
| TQ2_0  |       2.062 | 40.0 | 20.0 |

Times as fast:

| type   | than    |           1 |          512 |
| :----- | :------ | ----------: | -----------: |
| w2g128 | 1 token |        1.00 |         0.90 |
| w2g128 | TQ2_0   |        1.25 |         2.00 |
| w2g128 | fastest | 1.11 x Q4_0 | 2.00 x TQ2_0 |
| TQ2_0  | 1 token |        1.00 |         0.50 |

T-MAC's time per token, from 1 to 512 tokens, rises here: w2g128 from 1 to 512 (1.11 x).

## Kernels
"""
        in text
    )


def test_batch_tables_by_hand():
    text = tables_of(
        shown("w2g128", "batch", 16, 2, 80),
        shown("w2g128", "batch", 16, 8, 100, gain=1.25, slowdown=0.8),
    )
    assert (
        """
## Batches, 1 thread: tokens/s of all sequences together, by their number

| type   | bits/weight |    2 |     8 |
| :----- | ----------: | ---: | ----: |
| w2g128 |       2.125 | 80.0 | 100.0 |

Tokens/s of each sequence:

| type   |    2 |    8 |
| :----- | ---: | ---: |
| w2g128 | 40.0 | 12.5 |

Times as fast:

| type   | than        |    2 |    8 |
| :----- | :---------- | ---: | ---: |
| w2g128 | 2 sequences | 1.00 | 1.25 |

T-MAC's time per token rises nowhere from 2 to 8 sequences.
"""
        in text
    )


def test_one_size_has_nothing_to_compare_it_with():
    """There are no columns that compare it with itself or with a smaller size."""
    text = tables_of(shown("w2g128", "prompt", 128, 1, 413, ratios={"Q2_K": 3}))
    assert "| w2g128 |       2.125 | 413.0 |" in text and "rises nowhere" not in text
    assert "| w2g128 | Q2_K | 3.00 |" in text and "128 tokens" not in text
