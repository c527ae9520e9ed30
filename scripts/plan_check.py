#!/usr/bin/env python3
"""Compare what `koma plan` expects with what `koma bench throughput` measures.

usage: plan_check.py KOMA SOURCE... [--rounds 5] [--batch 1,8] [--input-len 128] [--output-len 32] [-- FLAGS]

Each SOURCE may carry flags of its own after commas: chat.gguf,--dtype,f32. Plan and bench take turns, so that both see the
same machine; the medians of the rounds are compared. The status is 1 if one is off by more than --within (20 %).
Standard library only. Run it on a quiet machine with a release build.
"""
import argparse
import json
import statistics
import subprocess
import sys

KEYS = {True: ["prefill_tokens_per_second", "decode_tokens_per_second"], False: ["total_tokens_per_second"]}


def run(arguments):
    """The JSON of a command, or its error."""
    done = subprocess.run([*arguments, "--json", "-", "--log", "error"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def compare(options, source, batch):
    """Rows of one source: name, key, expected, measured."""
    source, *flags = source.split(",")
    load = [source, "--batch", str(batch), "--input-len", str(options.input_len), *flags, *options.flags]
    generates = "decode_tokens_per_second" in run([options.koma, "plan", *load])["expected"]
    load += ["--output-len", str(options.output_len)] if generates else []
    expected, measured = [], []
    for _ in range(options.rounds):
        plan = run([options.koma, "plan", *load])
        expected.append(plan["expected"])
        bench = run([options.koma, "bench", "throughput", *load, "--runs", "3"])
        measured.append(bench["results"])
    for key in KEYS[generates]:
        yield (
            f"{plan['model']['name']} {plan['model']['format']} {' '.join(flags)}".strip(),
            key,
            statistics.median(e[key] for e in expected),
            statistics.median(m[key]["median"] for m in measured),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("koma")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=32)
    parser.add_argument("--within", type=float, default=0.2)
    own = sys.argv[1:]
    at = own.index("--") if "--" in own else len(own)
    options = parser.parse_args(own[:at])
    options.flags = own[at + 1 :]
    worst = 0.0
    print(f"{'model':<40}{'batch':>6} {'what':<28}{'expected':>12}{'measured':>12}{'off':>8}")
    for source in options.sources:
        for batch in map(int, options.batch.split(",")):
            for name, key, expected, measured in compare(options, source, batch):
                off = expected / measured - 1
                worst = max(worst, abs(off))
                print(f"{name:<40}{batch:>6} {key:<28}{expected:>12.1f}{measured:>12.1f}{off:>+8.1%}", flush=True)
    return int(worst > options.within)


if __name__ == "__main__":
    sys.exit(main())
