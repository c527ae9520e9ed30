"""The runner of scripts/bench-peers without any peer: parsing, statistics, procedures, reports."""

import json
import math
import select
import sys
import unittest
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from contextlib import nullcontext
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "benches/peers"), str(ROOT / "benches/peers/drive")]

import encoding
import protocol
from table import cases, chart, discover, driven, ggml, join, koma, measure, mixed, processes, quality, report, served, stats
from table.contender import ALONE, Setting
from table.main import main

DECODE = cases.Case("decode4", "decode 4", "decode", batch=4)
PREFILL = cases.Case("prefill512", "prefill 512", "prefill", input_len=512, output_len=1)


class Statistics(unittest.TestCase):
    def test_a_summary_has_median_and_range(self):
        found = stats.Summary.of([3.0, 1.0, 2.0, 10.0])
        self.assertEqual((found.median, found.low, found.high), (2.5, 1.0, 10.0))
        self.assertEqual(found.spread, 9 / 2.5)
        self.assertIsNone(stats.Summary.of([]))

    def test_the_best_peer_and_the_ratio_follow_the_unit(self):
        peers = {"a": stats.Summary.of([2.0]), "b": stats.Summary.of([4.0])}
        ours = stats.Summary.of([8.0])
        for higher, name, expected in ((True, "b", 2.0), (False, "a", 0.25)):
            self.assertEqual(stats.best(peers, higher), name)
            self.assertEqual(stats.ratio(ours, peers[name], higher), expected)
        self.assertIsNone(stats.best({}, True))

    def test_pairs_are_of_one_repetition_each(self):
        ours, theirs = stats.Summary.of([2.0, 9.0]), stats.Summary.of([1.0, 3.0])
        self.assertEqual(stats.paired_ratios(ours, theirs, True), [2.0, 3.0])
        self.assertEqual(stats.paired_ratios(ours, theirs, False), [0.5, 1 / 3])


class Parsing(unittest.TestCase):
    def test_koma_bench(self):
        results = {
            "decode_tokens_per_second": {"median": 5.0},
            "prefill_tokens_per_second": {"median": 7.0},
        }
        text = json.dumps({"schema": "koma.bench.throughput/1", "results": results})
        self.assertEqual([koma.throughput(text, kind) for kind in ("decode", "prefill")], [5.0, 7.0])
        with self.assertRaisesRegex(processes.Failed, "throughput/2"):
            koma.throughput(json.dumps({"schema": "koma.bench.throughput/2"}), "decode")

    def test_batched_bench_gives_the_last_matching_row_of_lines_or_table(self):
        row = {"pp": 128, "tg": 64, "pl": 4, "speed_pp": 1.0, "speed_tg": 2.0}
        other = row | {"pl": 8, "speed_tg": 9.0}
        lines = "\n".join(["noise {", json.dumps(row), json.dumps(row | {"speed_tg": 3.0}), json.dumps(other)])
        self.assertEqual(ggml.batched_bench(lines, DECODE), 3.0)
        table = (
            "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |\n"
            "|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|\n"
            "|   512 |      1 |    1 |    513 |    0.500 |  1024.00 |    0.010 |   100.00 |    0.510 |  1005.88 |\n"
        )
        self.assertEqual(ggml.batched_bench(table, PREFILL), 1024.0)
        with self.assertRaisesRegex(processes.Failed, "no row of 4 x 128"):
            ggml.batched_bench(table, DECODE)

    def test_a_driver_s_times_become_rates(self):
        self.assertEqual(driven.rate_of({"seconds": 3.0, "first_seconds": 1.0}, DECODE), 4 * 63 / 2)
        self.assertEqual(driven.rate_of({"seconds": 2.0, "first_seconds": 2.0}, PREFILL), 256.0)
        with self.assertRaises(processes.Failed):
            driven.rate_of({"seconds": 1.0, "first_seconds": 1.0}, DECODE)

    def test_load_counts_only_when_every_request_is_as_asked(self):
        case = cases.Case("http", "served", "http", batch=2)
        exact = {"exact": 8, "other": 0, "not_counted": 0}
        series = {
            "failed": 0,
            "errors": {},
            "input_lengths": exact,
            "output_lengths": exact,
            "output_tokens_per_second": 10.0,
            "results": {"inter_token_latency": {"p99": 0.02}},
        }

        def load(**changed):
            return served.load(json.dumps({"schema": "koma.bench.serve/1", "series": [series | changed]}), case)

        self.assertEqual(load(), {"served": 10.0, "itl_p99": 20.0})
        for changed in ({"failed": 1}, {"output_lengths": exact | {"exact": 7, "other": 1}}):
            with self.assertRaises(processes.Failed):
                load(**changed)

    def test_memory_is_the_high_water_mark(self):
        self.assertEqual(processes.high_water_bytes("VmPeak:\t9 kB\nVmHWM:\t 2048 kB\nVmRSS:\t1 kB\n"), 2048 * 1024)
        self.assertEqual(processes.high_water_bytes("Name:\tkthread\n"), 0)

    def test_what_others_use_is_all_but_idle_and_waiting(self):
        before = "cpu  100 0 0 800 100 0 0 0 0 0\ncpu0 1 2\n"
        after = "cpu  130 0 10 830 130 0 0 0 9 9\n"
        self.assertAlmostEqual(processes.worked(before, after), 0.4)
        self.assertEqual(processes.worked(before, before), 0.0)

    def test_cases_are_chosen_by_name_and_format(self):
        found = cases.chosen(["prefill512", "decode1"], ["bf16"])
        self.assertEqual([(case.name, format) for case, format in found], [("decode1", "bf16"), ("prefill512", "bf16")])
        found = [(case.name, format) for case, format in cases.chosen(["decode16", "quota"], [], goals=True)]
        self.assertEqual(found, [("decode16", format) for format in ("q4_0", "q8_0", "bf16")])
        with self.assertRaisesRegex(ValueError, "decode1@2048"):
            cases.chosen(["decode2"], [])
        known = {(case.name, format) for case, format in cases.chosen([], [])}
        for goal in [*cases.GOALS, *cases.LIMITS]:
            self.assertIn(goal[1:3], known)


class Quality(unittest.TestCase):
    def test_both_engines_give_figures(self):
        row = dict(
            cache="bf16", asked=255, perplexity=12.5, perplexity_f32=12.25, mean_divergence=1e-4, mean_divergence_error=1e-5, same_top=0.99
        )
        text = json.dumps({"schema": "koma.quality/1", "ids": [1, 2], "rows": [row]})
        expected = quality.Figure("q4_0", "Koma, bf16 cache", 12.5, 12.25, 1e-4, 1e-5, 0.99)
        self.assertEqual(quality.koma_figures("q4_0", text), ([expected], [1, 2]))
        printed = (
            "Mean PPL(Q)                   :  12.500000 ±   1.021324\n"
            "Mean PPL(base)                :  12.250000 ±   1.020000\n"
            "Mean    KLD:   0.000100 ±   0.000010\n"
            "Same top p: 99.000 ± 0.394 %\n"
        )
        self.assertEqual(quality.llama_figure("q4_0", "Koma, bf16 cache", printed), expected)
        with self.assertRaisesRegex(processes.Failed, "Same top p"):
            quality.llama_figure("q4_0", "x", printed.replace("Same", ""))
        theirs = replace(expected, engine=quality.THEIRS)
        table = quality.markdown([expected, theirs], 4)
        self.assertIn("| q4_0 | Koma, bf16 cache | 12.5000 | 12.2500 | 100 ± 10 | 99.00% |", table)
        self.assertIn("2048 tokens", table)
        self.assertIn("No format is worse", table)
        # Both errors, and by a hair more; what chance makes of a perplexity, and more.
        self.assertEqual(quality.worse([replace(expected, divergence=1.199e-4), theirs], 4), [])
        self.assertIn("divergence", quality.worse([replace(expected, divergence=1.21e-4), theirs], 4)[0])
        chance = math.exp(math.sqrt(2 * 2e-4 / (4 * 255)))
        self.assertEqual(quality.worse([replace(expected, perplexity=12.5 * chance * 0.9999), theirs], 4), [])
        self.assertIn("perplexity", quality.worse([replace(expected, perplexity=12.5 * chance * 1.0001), theirs], 4)[0])

    def test_ids_are_the_last_list_that_is_printed(self):
        self.assertEqual(quality.ids_of("load [x]\n[1, 20,\n 3]\n"), [1, 20, 3])
        with self.assertRaises(processes.Failed):
            quality.ids_of("nothing")


class Fake:
    """A contender with one rate a turn; None fails."""

    server = None
    kinds = ALONE

    def __init__(self, name, rates):
        self.name, self.rates, self.closed = name, list(rates), False

    def rate(self, case):
        rate = self.rates.pop(0)
        if rate is None:
            raise processes.Failed("out of luck")
        return rate

    def close(self):
        self.closed = True


def run(contenders, kind="decode", repetitions=2, case="decode1"):
    """One row of fakes."""
    found = next(one for one in cases.CASES if one.name == case)
    row = measure.Row("smollm2", replace(found, kind=kind), "q4_0")
    setting = Setting(threads=2, isa="native", peers=None, koma=Path("koma"))
    measure._repeat(measure.Plan(setting, repetitions, watch=0), row, contenders)
    return row


class Turns(unittest.TestCase):
    def test_everyone_has_a_turn_in_each_repetition_and_who_fails_drops_out(self):
        order = []
        fakes = [Fake("Koma", [6.0, 8.0]), Fake("a", [2.0, None]), Fake("b", [None]), Fake("c", [4.0, 4.0])]
        for fake in fakes:
            fake.rate = lambda case, fake=fake, rate=fake.rate: order.append(fake.name) or rate(case)
        row = run(fakes)
        self.assertEqual(order, ["Koma", "a", "b", "c", "Koma", "a", "c"])
        self.assertEqual(row.failed, {"a": "out of luck", "b": "out of luck"})
        self.assertEqual(set(row.summaries("rate")), {"Koma", "c"})
        (line,) = report.lines([row])
        self.assertEqual((line.best, line.ratio, line.goal, line.reached), ("c", 1.75, 1.5, True))

    def test_company_is_a_part_of_the_quiet_rate_and_ends(self):
        row = run([Fake("Koma", [8.0, 2.0])], kind="company", repetitions=1)
        self.assertEqual(row.samples, {"share": {"Koma": [25.0]}})
        self.assertEqual(len(processes.tree(processes.os.getpid())), 1)

    def test_a_crowd_is_four_times_the_threads(self):
        asked = []
        one = Fake("Koma", [8.0])
        one.kinds = frozenset({"crowded"})
        one.with_threads = lambda threads: asked.append(threads) or Fake("Koma", [6.0])
        self.assertEqual(run([one], kind="crowded", repetitions=1).samples, {"share": {"Koma": [75.0]}})
        self.assertEqual(asked, [8])

    def test_a_quota_is_a_group_of_its_own_that_goes_away(self):
        with TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "cgroup.controllers").write_text("cpu memory\n")
            own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
            home = root / own.strip("/")
            home.mkdir(parents=True, exist_ok=True)
            (home / "cgroup.subtree_control").write_text("cpu\n")
            group = home / f"koma-bench-{processes.os.getpid()}"
            with processes.quota(1.5, root):
                self.assertEqual((group / "cpu.max").read_text(), "150000 100000")
                self.assertEqual((group / "cgroup.procs").read_text(), str(processes.os.getpid()))
                for file in group.iterdir():  # the system takes a group's files away with it
                    file.unlink()
            self.assertFalse(group.exists())
            self.assertEqual((home / "cgroup.procs").read_text(), str(processes.os.getpid()))
        with self.assertRaisesRegex(processes.Failed, "no control group"):
            with processes.quota(1, Path("/nowhere")):
                pass

    def test_under_a_quota_each_chooses_its_own_threads(self):
        one = Fake("Koma", [8.0])
        one.kinds = frozenset({"quota"})
        one.granted = lambda: Fake("Koma", [5.0])
        quota, measure.quota = measure.quota, lambda cores: self.assertEqual(cores, 1.0) or nullcontext()
        try:
            self.assertEqual(run([one], kind="quota", repetitions=1).samples, {"share": {"Koma": [62.5]}})
        finally:
            measure.quota = quota

    def test_events_of_a_stream_are_counted_whatever_parts_it_comes_in(self):
        text = b"HTTP/1.1 200 OK\r\n\r\ndata: {a}\n\ndata: {b}\n\ndata: [DONE]\n\n"
        for size in (1, 3, 7, len(text)):
            counter = mixed.Counter()
            parts = [text[i : i + size] for i in range(0, len(text), size)]
            self.assertEqual(sum(map(counter.take, parts)), 2)

    def test_tails_are_of_each_stream_and_of_one_stretch_of_time(self):
        chats = mixed.Chats(0, cases.Case("m", "m", "mixed_rerank", batch=2))
        chats._gaps = {0: [0.001] * 197 + [0.5, 0.6, 0.7], 1: [0.001] * 100}
        self.assertEqual(chats.tails(), [0.6, None])  # the other one has too few
        self.assertEqual(chats.tails(), [None, None])

    def test_a_mixed_case_has_room_for_long_prompts(self):
        case = cases.Case("mixed", "mixed", "mixed", batch=8)
        self.assertEqual((case.slots, case.slot_len), (10, 2048))
        self.assertEqual((DECODE.slots, DECODE.slot_len), (4, 192))
        setting = Setting(threads=2, isa="native", peers=None, koma=Path("koma"))
        model = discover.Model("m", Path("m"), 9, 100, 512)
        for kind, answers in (("mixed", True), ("http", False)):
            command, _ = koma.Koma(setting, model, "q4_0").server(1, cases.Case("c", "c", kind, batch=8))
            self.assertEqual(any(part.startswith("intent=") for part in command), answers)

    def test_a_kind_without_the_contender_is_skipped(self):
        self.assertEqual(run([Fake("Koma", [])], kind="http").samples, {})


class Reports(unittest.TestCase):
    def test_a_machine_that_is_not_quiet_is_said(self):
        row = run([Fake("Koma", [2.0])], repetitions=1)
        about = report.environment(Setting(2, "native", None, Path("koma")), "koma 1", {})
        for company, disturbed in ([0.05, 0.1], False), ([0.05, 0.6], True):
            row.company = company
            self.assertEqual("smollm2 decode1 q4_0 (60%)" in report.markdown([row], about), disturbed)
            self.assertEqual(report.document([row], about)["rows"][0]["disturbed"], disturbed)

    def test_document_page_and_chart_say_the_same(self):
        row = run([Fake("Koma", [2.0, 4.0]), Fake("a <b>", [4.0, 4.0]), Fake("c", [None])])
        about = report.environment(Setting(2, "native", None, Path("koma")), "koma 1", {"llama": "2"})
        document = report.document([row], about)
        self.assertEqual(document["schema"], "koma.bench.peers/1")
        (line,) = json.loads(json.dumps(document))["rows"]
        self.assertEqual((line["ratio"], line["goal"], line["reached"]), (0.75, 1.5, False))
        self.assertEqual(line["koma"]["samples"], [2.0, 4.0])
        self.assertEqual(line["paired_ratios"], [0.5, 1.0])
        self.assertEqual(line["not_measured"], {"c": "out of luck"})
        page = report.markdown([row], about)
        cells = "3 [2 to 4] | 4 [4 to 4] | a <b> | **0.75 x** |"
        self.assertIn(f"| decode 1, context 128 | q4_0 | tokens/s, tok/s | {cells}\n", page)
        self.assertIn(f"| smollm2 | decode 1, context 128 | q4_0 | tokens/s | {cells} 0.50 to 1.00 | 1.5 x | **missed** |", page)
        self.assertIn("Reached: 0 of 1.", page)
        self.assertIn("- c: out of luck (smollm2 decode1 q4_0)", page)
        picture = ElementTree.fromstring(chart.svg(report.lines([row]), "title"))
        texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("0.75 x", texts)
        self.assertIn("3 against 4 tok/s of a <b>", texts)

    def test_parts_join_to_what_they_were(self):
        first = run([Fake("Koma", [2.0, 4.0]), Fake("a", [4.0, 4.0]), Fake("c", [None])])
        second = run([Fake("Koma", [3.0, 3.0]), Fake("b", [1.0, 1.0])])
        other = run([Fake("Koma", [9.0]), Fake("a", [3.0])], repetitions=1, case="decode16")
        about = report.environment(Setting(2, "native", None, Path("koma")), "koma 1", {"llama": "2"})
        first.koma = second.koma = other.koma = "koma 1"
        with TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in "abc"]
            for file, rows in zip(files, ([first], [second], [other, first])):
                file.write_text(json.dumps(report.document(rows, about)))
            whole = join.join(files)
            self.assertEqual(report.document(*whole), report.document([first, other], about))
            self.assertEqual(report.markdown(*whole), report.markdown([first, other], about))
            # The later file's row counts, whole.
            rows, _ = join.join(files[:2])
            self.assertEqual(rows, [second])
            for change in ({"threads": 3}, {"isa": "avx2"}):
                files[1].write_text(json.dumps(report.document([second], about | change)))
                with self.assertRaisesRegex(ValueError, next(iter(change))):
                    join.join(files[:2])
            files[1].write_text(files[0].read_text().replace('"input_len": 128', '"input_len": 64'))
            with self.assertRaisesRegex(ValueError, "decode1 is not the case"):
                join.join(files)
            self.assertEqual(main(["--join", str(files[1])]), 2)
            self.assertEqual(main(["--join", str(files[0]), "--out", str(files[2])]), 1)
            self.assertTrue(files[2].with_suffix(".svg").is_file())

    def test_held_to_avx2_every_goal_is_to_be_ahead(self):
        row = run([Fake("Koma", [3.0]), Fake("a", [2.5])], repetitions=1)
        for isa, goal, reached in (("native", 1.5, False), ("avx2", 1.0, True)):
            row.isa = isa
            (line,) = report.lines([row])
            self.assertEqual((line.goal, line.reached), (goal, reached))

    def test_a_goal_of_its_own_is_a_ratio_too(self):
        row = measure.Row("smollm2", next(case for case in cases.CASES if case.name == "first-token"), "q4_1")
        row.samples = {"first_token": {"Koma": [0.25], "a": [0.4], "b": [0.5]}}
        (line,) = report.lines([row])
        self.assertEqual((line.ratio, line.needed, line.reached), (1.6, 2.0, False))
        self.assertEqual((line.compared("a"), line.compared("b")), (1.0, 0.8))


class Discovery(unittest.TestCase):
    def test_only_what_is_there_takes_part_and_the_rest_is_named(self):
        with TemporaryDirectory() as folder:
            peers = Path(folder)
            hf = peers / "models/m/hf"
            hf.mkdir(parents=True)
            shape = dict(num_attention_heads=4, hidden_size=64, num_hidden_layers=3, num_key_value_heads=2)
            (hf / "config.json").write_text(json.dumps(shape | dict(vocab_size=9, max_position_embeddings=512)))
            (hf / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
            (peers / "models/m/q4_0.gguf").touch()
            program = peers / "llama.cpp/bin/llama-batched-bench"
            program.parent.mkdir(parents=True)
            program.touch()
            model = discover.models(peers)["m"]
            self.assertEqual((model.vocab, model.kv_values, model.window), (2, 3 * 2 * 16 * 2, 512))
            setting = Setting(threads=2, isa="native", peers=peers, koma=Path("koma"))
            found, left = discover.contenders(setting, model, "q4_0")
            names = ["Koma", "llama.cpp", "llama.cpp poll 0", "llama.cpp no warm-up"]
            self.assertEqual([one.name for one in found], names)
            self.assertEqual(left["ik_llama.cpp"], "not installed")
            self.assertEqual(left["OpenVINO int4"], "not installed")

    def test_encoders_have_their_own_cases_and_peers(self):
        with TemporaryDirectory() as folder:
            at = Path(folder)
            for name in ("minilm", "smollm2"):
                (at / f"models/{name}/hf").mkdir(parents=True)
            shape = {"num_attention_heads": 12, "hidden_size": 384, "vocab_size": 9, "max_position_embeddings": 512}
            (at / "models/minilm/hf/config.json").write_text(json.dumps(shape))
            heads = shape | {"num_key_value_heads": 4, "num_hidden_layers": 2}
            (at / "models/smollm2/hf/config.json").write_text(json.dumps(heads))
            (at / "models/smollm2/hf/tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
            (at / "models/smollm2/q4_0.gguf").touch()
            (at / "models/minilm/int8.onnx").touch()
            (at / "encoders/bin").mkdir(parents=True)
            (at / "encoders/bin/python").touch()
            found = discover.models(at)
            by_name = {case.name: case for case in cases.CASES}
            for model, case, format, expected in (
                ("minilm", "encode1x20", "int8", True),
                ("minilm", "decode1", "bf16", False),
                ("minilm", "classify32", "int8", False),
                ("smollm2", "decode1", "q4_0", True),
                ("smollm2", "decode1", "bf16", False),
                ("smollm2", "encode1x20", "int8", False),
            ):
                self.assertEqual(found[model].has(by_name[case], format), expected, (model, case, format))
            everyone = ["Koma", "ONNX Runtime int8", "ONNX Runtime behind FastAPI"]
            for isa, above, names in (("native", True, everyone), ("avx2", True, ["Koma"]), ("avx2", False, everyone)):
                setting = Setting(threads=2, isa=isa, peers=at, koma=Path("koma"), above_avx2=above)
                there, left = discover.contenders(setting, found["minilm"], "int8")
                self.assertEqual([one.name for one in there], names)
                self.assertEqual(left["CTranslate2 int8"], "no file ctranslate2")

    def test_the_fork_has_flash_attention_for_one_sequence_only(self):
        setting = Setting(threads=2, isa="native", peers=None, koma=Path("koma"))
        model = discover.Model("m", Path("m"), 9, 100, 512)
        for several, batch, expected in ((True, 4, "on"), (False, 4, "off"), (False, 1, "on")):
            one = ggml.Ggml("g", setting, model, "q4_0", Path("g"), flash_batches=several)
            command, _ = one.server(1, cases.Case("c", "c", "http", batch=batch))
            self.assertEqual(command[command.index("-fa") + 1], expected)

    def test_what_a_processor_has_above_avx2(self):
        for flags, expected in (("fpu avx2 fma", False), ("fpu avx2 avx512f", True), ("avx2 avx_vnni", True), ("avx512fx", False)):
            self.assertEqual(processes.above_avx2(f"model name : x\nflags : {flags}\n"), expected, flags)

    def test_what_cannot_begin_is_said(self):
        self.assertEqual(main(["--koma", sys.executable]), 2)
        self.assertEqual(main(["--peers", ".", "--koma", "/nowhere"]), 2)
        self.assertEqual(main(["--peers", ".", "--koma", sys.executable, "--case", "none"]), 2)


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from protocol import serve
def load():
    print("chatter of a peer")
    def run(prompts, output):
        if output == 5:
            raise ValueError("five")
        assert all(100 <= id < 200 for prompt in prompts for id in prompt)
        return len(prompts) * min(output, 6)
    return run
serve(load, 200)
"""


class Encoders(unittest.TestCase):
    def test_lengths_are_spread_as_koma_bench_spreads_them(self):
        case = cases.Case("e", "e", "encode", batch=3, input_len=100, shortest=20)
        self.assertEqual(case.lens, [20, 60, 100])
        self.assertEqual(replace(case, batch=1).lens, [100])
        self.assertEqual(replace(case, shortest=0).lens, [100, 100, 100])

    def test_a_load_is_one_batch_or_buckets_of_neighbours(self):
        seen = []
        encoding.seconds(seen.append, [30, 10, 20, 50, 40, 60], 0.0)
        sizes = [[len(text) for text in batch] for batch in seen]
        whole, parts = [10, 20, 30, 40, 50, 60], [[10, 20], [30, 40], [50, 60]]
        self.assertEqual(sizes, [whole] * 2 + parts * 2)  # each once unmeasured
        seen.clear()
        encoding.seconds(seen.append, [8, 8], 0.0)
        self.assertEqual(len(seen), 2)

    def test_reranks_are_the_same_for_every_server(self):
        case = next(one for one in cases.CASES if one.kind == "rerank")
        body = served.rerank_body(case, 3)
        self.assertEqual(body, served.rerank_body(case, 3))
        self.assertNotEqual(body, served.rerank_body(case, 4))
        words = sorted(len(text.split()) for text in body["documents"])
        beside = len(body["query"].split()) + served.SPECIAL
        self.assertEqual([beside + n for n in words], case.lens)

    def test_times_of_texts_come_from_the_load_client(self):
        series = {"failed": 0, "errors": {}, "requests_per_second": 9.0}
        document = {"schema": "koma.bench.serve/1", "series": [series]}
        self.assertEqual(served.series_of(json.dumps(document)), series)
        for wrong, message in ((document | {"schema": "x"}, "not known"), (document | {"series": [series | {"failed": 1}]}, "1 requests failed")):
            with self.assertRaisesRegex(processes.Failed, message):
                served.series_of(json.dumps(wrong))

    def test_an_encoder_is_timed_by_its_requests(self):
        text = json.dumps({"schema": "koma.bench.throughput/1", "results": {"requests_per_second": {"median": 50.0}}})
        self.assertEqual(koma.throughput(text, "requests_per_second"), 50.0)


class Protocol(unittest.TestCase):
    def test_a_driver_answers_line_by_line_and_names_errors(self):
        with TemporaryDirectory() as folder:
            script = Path(folder) / "driver.py"
            script.write_text(DRIVER)
            one = driven.Driven("d", Path(sys.executable), str(script), [protocol.__file__.rpartition("/")[0]], {}, 30)
            first = one._ask(driven.order_of(cases.Case("a", "a", "prefill", batch=2, output_len=1)))
            self.assertEqual(first["seconds"], first["first_seconds"])
            for output, message in ((5, "ValueError: five"), (7, "6 tokens came out instead of 7")):
                with self.assertRaisesRegex(processes.Failed, message):
                    one._ask(driven.order_of(cases.Case("a", "a", "decode", output_len=output)))
            self.assertGreater(one._ask(driven.order_of(cases.Case("a", "a", "decode", output_len=6)))["seconds"], 0)
            one.close()

    def test_what_a_driver_started_ends_with_it(self):
        with TemporaryDirectory() as folder:
            script, note = Path(folder) / "driver.py", Path(folder) / "pid"
            child = f"import subprocess; worker = subprocess.Popen(['sleep', '60']); open({str(note)!r}, 'w').write(str(worker.pid))\n"
            script.write_text(child + DRIVER)
            one = driven.Driven("d", Path(sys.executable), str(script), [protocol.__file__.rpartition("/")[0]], {}, 30)
            one._ask(driven.order_of(cases.Case("a", "a", "decode", output_len=6)))
            worker = processes.os.pidfd_open(int(note.read_text()))
            self.assertEqual(select.select([worker], [], [], 0)[0], [])  # it runs
            one.close()
            self.assertEqual(select.select([worker], [], [], 30)[0], [worker])
            processes.os.close(worker)

    def test_a_driver_that_does_not_load_says_why_once(self):
        with TemporaryDirectory() as folder:
            script = Path(folder) / "driver.py"
            script.write_text("raise SystemExit('no such file')")
            one = driven.Driven("d", Path(sys.executable), str(script), [], {}, 30)
            for _ in range(2):
                with self.assertRaisesRegex(processes.Failed, "no such file"):
                    one.rate(DECODE)


if __name__ == "__main__":
    unittest.main()
