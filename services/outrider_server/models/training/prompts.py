"""Prompts cut from held-out files, for the demo, tests, benchmarks and evaluation."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from .corpus import SourceFile

PROMPT_COUNT = 64
SMALLEST_TOKENS = 100
LARGEST_TOKENS = 250
_HEADS = ("def ", "class ", "async def ", "@")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The beginning of a piece of source, ending before a newline."""

    name: str
    """Path of its file relative to the standard library."""
    text: str


def cut_prompts(tokenizer: Tokenizer, files: tuple[SourceFile, ...]) -> tuple[Prompt, ...]:
    """Cut up to `PROMPT_COUNT` prompts, taking files in turn so that they are diverse."""
    queues = [list(_candidates(tokenizer, file)) for file in files]
    prompts: list[Prompt] = []
    while any(queues) and len(prompts) < PROMPT_COUNT:
        for queue in queues:
            if queue and len(prompts) < PROMPT_COUNT:
                # From the middle outwards: far from the prompts already taken.
                prompts.append(queue.pop(len(queue) // 2))
    return tuple(sorted(prompts, key=lambda prompt: prompt.name))


def write_prompts(prompts: tuple[Prompt, ...], path: Path) -> None:
    """Write one JSON object a line: `name` and `text`."""
    lines = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in prompts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read what `write_prompts` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(Prompt(**json.loads(line)) for line in lines)


def _candidates(tokenizer: Tokenizer, file: SourceFile) -> Iterator[Prompt]:
    """Non-overlapping prompts: from a top-level or indented head to a natural stop."""
    lines = file.text.splitlines()
    start = 0
    while start < len(lines):
        end = _end_of_prompt(tokenizer, lines, start) if _is_head(lines, start) else None
        if end is None:
            start += 1
            continue
        yield Prompt(file.name, "\n".join(lines[start:end]))
        start = end


def _is_head(lines: list[str], index: int) -> bool:
    starts_block = index == 0 or not lines[index - 1].strip()
    return starts_block and (index == 0 or lines[index].startswith(_HEADS))


def _end_of_prompt(tokenizer: Tokenizer, lines: list[str], start: int) -> int | None:
    """Index after the last line: the first good stop past `SMALLEST_TOKENS`, or None."""
    for end in range(start + 2, len(lines)):
        size = len(tokenizer.encode("\n".join(lines[start:end])).ids)
        if size > LARGEST_TOKENS:
            return None
        if size >= SMALLEST_TOKENS and _is_natural_stop(lines, end):
            return end
    return None


def _is_natural_stop(lines: list[str], end: int) -> bool:
    """Whether the line before `end` is finished code inside a body that goes on."""
    last, following = lines[end - 1], lines[end]
    is_code = last.startswith("    ") and not last.lstrip().startswith(("#", '"', "'"))
    return is_code and last.endswith((":", ")", "]", "}")) and following.startswith("    ")
