"""`koma chat` and the progress bars as a person at a terminal meets them, and `koma chat` in a pipe."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import openai
import pytest
from conftest import ROOT
from terminal import BACKSPACE, CTRL_C, CTRL_D, CTRL_U, DOWN, LEFT, UP, Terminal, environment

KOMA = os.environ["KOMA_BIN"]
CHAT = f"chat={pathlib.Path(os.environ['KOMA_TEST_MODELS']) / 'chat.gguf'}"
MEASURED = r"(\d+) prompt tokens, (\d+) of them cached; first token after \d+\.\d\d s; (\d+) tokens, [\d.]+ tokens/s\n"
FIRST = "My name is Aiko. Say hello."
SECOND = "What is my name?"


@pytest.fixture
def chat() -> Iterator:
    """Starts `koma chat` in a terminal and waits for its prompt."""
    started: list[Terminal] = []

    def start(*arguments: str, **changes: str) -> Terminal:
        terminal = Terminal(KOMA, "chat", CHAT, *arguments, **changes)
        started.append(terminal)
        terminal.until(r"a window of \d+ tokens\. .*Ctrl-D ends\.\n")
        terminal.until("> ")
        return terminal

    yield start
    for terminal in started:
        terminal.kill()


def ask(client: openai.OpenAI, messages: list[dict], **options):
    reply = client.chat.completions.create(model="chat", messages=messages, temperature=0, **options)
    return reply.choices[0].message.content, reply.usage


def test_a_conversation_equals_the_servers(client: openai.OpenAI, chat) -> None:
    terminal = chat("--temperature", "0", "--max-tokens", "24")
    assert "loading chat [" in terminal.text, "a progress bar"
    assert "\x1b[2K" in terminal.raw, "which is gone when the model is there"
    messages, cached = [], []
    for question in [FIRST, SECOND]:
        messages.append({"role": "user", "content": question})
        answer, usage = ask(client, messages, max_tokens=24)
        terminal.line(question)
        shown = terminal.seen
        counts = terminal.until(MEASURED)
        assert terminal.text[shown : counts.start()].startswith(answer)
        assert int(counts[1]) == usage.prompt_tokens, "the history is in the prompt"
        assert int(counts[3]) == usage.completion_tokens
        cached.append(int(counts[2]))
        messages.append({"role": "assistant", "content": answer})
        terminal.until("> ")
    assert cached[0] == 0 and cached[1] >= 16, f"the second turn finds the first in the cache: {cached}"
    terminal.line("/stats")
    terminal.until(r"2 turns, \d+ of \d+ tokens; 0 of \d+ cache blocks in use\n")
    terminal.line("/reset")
    terminal.until("a new conversation")
    terminal.until("> ")
    terminal.line(SECOND)
    alone = terminal.until(MEASURED)
    _, usage = ask(client, [{"role": "user", "content": SECOND}], max_tokens=24)
    assert int(alone[1]) == usage.prompt_tokens
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_ctrl_c_stops_a_reply_and_frees_its_blocks(chat) -> None:
    terminal = chat("--temperature", "0")
    terminal.line("Tell me a long story about a very long journey, with every detail.")
    terminal.until(r"\S")
    terminal.type(CTRL_C)
    terminal.until(r"stopped\nwhat there is of the reply stays in the conversation")
    terminal.until("> ")
    terminal.line("/stats")
    terminal.until(r"1 turns, \d+ of \d+ tokens; 0 of \d+ cache blocks in use\n")
    terminal.until("> ")
    terminal.type(CTRL_C)
    terminal.until(r"Ctrl-D or /exit ends\.")
    terminal.until("> ")
    terminal.line("/exit")
    assert terminal.end() == 0


def test_lines_are_edited_and_come_back(chat) -> None:
    terminal = chat()
    terminal.type("/elp\r")
    terminal.until("there is no command /elp")
    terminal.until("> ")
    terminal.type("/elp" + LEFT * 3 + "h\r")
    terminal.until("/system TEXT")
    terminal.until("> ")
    terminal.type("forget this" + CTRL_U + "/system Reply in 漢字 éé" + BACKSPACE * 2 + "\r")
    terminal.until("system prompt set")
    terminal.until("> ")
    terminal.line("/system")
    terminal.until("system prompt: Reply in 漢字\n")
    terminal.until("> ")
    # The lines so far, the last one first, and down again to the empty one.
    terminal.type(UP * 3)
    terminal.until("/help")
    terminal.type(DOWN + "!\r")
    terminal.until("system prompt set")
    terminal.until("> ")
    terminal.type(UP + DOWN + "/system\r")
    terminal.until(r"system prompt: Reply in 漢字 !\n")
    terminal.until("> ")
    # Ctrl-C leaves a line that was begun.
    terminal.type("/exit")
    terminal.until("/exit")
    terminal.type(CTRL_C)
    terminal.until(r"Ctrl-D or /exit ends\.")
    terminal.until("> ")
    # More than one line at once: none is lost.
    terminal.type("/system One\r/system\r/system Two\r/system\r")
    terminal.until(r"system prompt: One\n")
    terminal.until(r"system prompt: Two\n")
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_what_is_typed_during_a_reply_is_the_next_line(chat) -> None:
    terminal = chat("--temperature", "0", "--max-tokens", "200")
    terminal.line("Tell me a long story about a very long journey, with every detail.")
    terminal.until(r"\S")
    terminal.type("/stats\r")
    terminal.until("tokens/s\n")
    terminal.until(r"1 turns, \d+ of \d+ tokens")
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_a_full_window_is_said_and_reset_helps(chat) -> None:
    terminal = chat("--temperature", "0", "--max-model-len", "45")
    terminal.line("Count to one hundred, one number after the other.")
    terminal.until(r"the model's window of 45 tokens is full; /reset begins a new conversation")
    terminal.until("> ")
    terminal.line("Go on.")
    terminal.until(r"has \d+ tokens and leaves no room for a reply in the model's window of 45; /reset begins")
    terminal.until("> ")
    terminal.line("/reset")
    terminal.until("> ")
    terminal.line("Hi")
    terminal.until(r"\d+ prompt tokens, ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


@pytest.mark.parametrize(("changes", "dim"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_commands_and_colours(chat, changes: dict[str, str], dim: bool) -> None:
    terminal = chat(**changes)
    terminal.line("/help")
    terminal.until("/system TEXT")
    terminal.until("> ")
    terminal.line("/system Answer in rhymes.")
    terminal.until("system prompt set")
    terminal.until("> ")
    terminal.line("/system")
    terminal.until(r"system prompt: Answer in rhymes\.")
    terminal.until("> ")
    terminal.line("/rest")
    terminal.until("there is no command /rest; /help lists them")
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    assert ("\x1b[2m" in terminal.raw) == dim


def pipe(*arguments: str, stdin: bytes = b"", **changes: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [KOMA, *arguments], input=stdin, capture_output=True, env=environment(**changes), cwd=ROOT, timeout=600, check=False
    )


def test_a_pipe_gets_one_reply_for_each_line_and_nothing_else(client: openai.OpenAI) -> None:
    done = pipe("chat", CHAT, "--temperature", "0", "--max-tokens", "12", stdin=f"{FIRST}\n\n{SECOND}".encode())
    assert done.returncode == 0, done.stderr
    messages, expected = [], ""
    for question in [FIRST, SECOND]:
        messages.append({"role": "user", "content": question})
        answer, _ = ask(client, messages, max_tokens=12)
        messages.append({"role": "assistant", "content": answer})
        expected += answer if answer.endswith("\n") else answer + "\n"
    assert done.stdout.decode() == expected
    remarks = done.stderr.decode()
    assert remarks.count("tokens/s") == 2
    assert "\x1b" not in remarks and "loading" not in remarks, remarks


def test_odd_tokens_are_whole_characters() -> None:
    # What a seed says depends on the last bits of the logits, so on the processor: one of several will do.
    for seed in range(12):
        odd = ["--temperature", "2", "--seed", str(seed), "--max-tokens", "60"]
        done = pipe("chat", CHAT, *odd, stdin="Emoji 🦀, 漢字, é!".encode())
        assert done.returncode == 0, done.stderr
        if any(ord(c) > 127 for c in done.stdout.decode()):
            return
    pytest.fail("replies with nothing but ASCII prove nothing")


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (["chat", CHAT, "--max-model-len", "16"], b"Hello\n", 1, "line 1 of standard input: the conversation has"),
        (["chat", CHAT], b"\xff\n", 1, "line 1 of standard input: "),
        (["chat", CHAT], b"/rest\n", 1, "there is no command /rest"),
        (["chat", "tests/models/intent"], b"", 1, "`intent` does not chat; it serves classification"),
        (["chat", "tests/models/none"], b"", 2, "tests/models/none: there is no such folder or file"),
        (["chat", CHAT, "--temperature", "3"], b"", 2, "--temperature: must be from 0 to 2, got 3.0"),
        (["chat", CHAT, "--max-tokens", "0"], b"", 2, "--max-tokens: must be from 1 to"),
        (["chat", CHAT, "--stop", ""], b"", 2, "--stop: string 0 is empty"),
    ],
)
def test_what_goes_wrong_is_said(arguments: list[str], stdin: bytes, code: int, message: str) -> None:
    done = pipe(*arguments, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    assert message in done.stderr.decode()


def test_a_closed_pipe_ends_quietly() -> None:
    for arguments in (["chat", CHAT, "--max-tokens", "4"], ["completions", "bash"], ["man"], ["models"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [KOMA, *arguments], input=b"Hello\n", stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=600, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b""), arguments
