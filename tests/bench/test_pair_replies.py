"""Replies and guesses of real engines, against turns of the engines themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from models_for_tests import save_folder, save_tokenizer, tiny_llama
from outrider_bench.colocated import ColocatedPair
from outrider_bench.pair.asking import ask_questions
from outrider_bench.pair.model_peer import TimedModel
from outrider_bench.pair.replied import Prompt, Reply
from outrider_bench.pair.replies import ServedPair
from outrider_bench.pair.settings import check_vocabularies
from outrider_bench.questions import Question
from outrider_server.core.errors import StartupError
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.host.local import LocalDrafter

PROMPTS = [
    Prompt(
        f"text {index}", "texts", tuple(3 + (index * 7 + place) % 50 for place in range(length)), 5
    )
    for index, length in enumerate((1, 9, 30))
]
TOKENS = 21


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target with other weights in its output layer: it agrees now and then."""
    folder = tmp_path_factory.mktemp("draft")
    model = tiny_llama()
    weight = model.lm_head.weight
    weight.data += 0.4 * weight.std() * tiny_llama(seed=1).lm_head.weight.sign()
    model.save_pretrained(folder)
    save_tokenizer(folder, model.config.vocab_size)
    return folder


@pytest.fixture(scope="module")
def pair(target: Path, draft: Path) -> ServedPair:
    return ServedPair(target, draft, 128)


async def told(colocated: ColocatedPair, reply: Reply) -> list[int]:
    """The draft's guesses one by one, each after it was told the reply's token before."""
    prompt = reply.prompt
    draw = Draw(SamplingParams(temperature=reply.temperature), prompt.seed, len(prompt.tokens))
    name = f"told {prompt.name} {reply.temperature}"
    drafter = await LocalDrafter.open(colocated._draft, name, 1, prompt.tokens, draw, lead=1)
    found = []
    for place, token in enumerate(reply.tokens):
        position = len(prompt.tokens) + place
        found += (await drafter.take(position, 1, 1)).tokens
        drafter.commit(position, (token,))
    await drafter.close()
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
async def test_replies_and_guesses_are_those_of_a_turn(
    pair: ServedPair, target: Path, draft: Path, temperature: float
) -> None:
    replies = pair.replies(PROMPTS, temperature, TOKENS, ())
    colocated = await ColocatedPair.start(target, draft, 128)
    for reply in replies:
        asked = {"tokens": TOKENS, "temperature": temperature, "loop": "synchronous", "window": 0}
        turn = await colocated.run(
            asked | {"prompt": reply.prompt.tokens, "seed": reply.prompt.seed}
        )
        assert list(reply.tokens) == turn["tokens"]
        assert list(reply.guesses) == await told(colocated, reply)
    await colocated.stop()
    assert any(reply.agreed.count(True) for reply in replies)
    assert any(reply.agreed.count(False) for reply in replies)


def test_chances_are_how_often_guesses_agree(pair: ServedPair) -> None:
    """64 replies of 21 tokens: mean chance and share that agreed are within 4 standard errors, 0.055."""
    prompts = [Prompt(f"text {seed}", "texts", (seed % 60, 5), seed) for seed in range(64)]
    replies = pair.replies(prompts, 1.0, TOKENS, ())
    agreed = [right for reply in replies for right in reply.agreed]
    chances = [chance for reply in replies for chance in reply.chances]
    assert len(agreed) == len(chances) == 64 * TOKENS
    assert 0.1 < sum(agreed) / len(agreed) < 0.95
    assert sum(chances) / len(chances) == pytest.approx(sum(agreed) / len(agreed), abs=0.055)
    assert len(set(chances)) > 64


def test_greedily_a_guess_agrees_always_or_never(pair: ServedPair) -> None:
    for reply in pair.replies(PROMPTS, 0.0, TOKENS, ()):
        assert reply.chances == tuple(map(float, reply.agreed))


def test_a_model_agrees_with_itself(target: Path) -> None:
    for reply in ServedPair(target, target, 128).replies(PROMPTS, 1.0, TOKENS, ()):
        assert all(reply.agreed)
        assert min(reply.chances) == pytest.approx(1.0)


def test_a_reply_ends_with_its_end_token(pair: ServedPair) -> None:
    (whole,) = pair.replies(PROMPTS[1:2], 0.0, TOKENS, ())
    (ended,) = pair.replies(PROMPTS[1:2], 0.0, TOKENS, (whole.tokens[6],))
    assert ended.tokens == whole.tokens[: whole.tokens.index(whole.tokens[6]) + 1]
    assert len(ended.guesses) == len(ended.tokens)


def test_a_pair_of_two_vocabularies_is_refused(target: Path, tmp_path: Path) -> None:
    other = save_folder(tmp_path / "other", vocabulary_size=62)
    check_vocabularies(target, target)
    with pytest.raises(StartupError, match="has another vocabulary than the target"):
        check_vocabularies(target, other)


class Echo:
    """A chat of a token a character, the reply to which is known."""

    def prompt(self, messages: list) -> tuple[int, ...]:
        return tuple(map(ord, "".join(message.content for message in messages)))

    def text(self, tokens: tuple[int, ...]) -> str:
        return "".join(map(chr, tokens))


def test_later_turns_follow_the_targets_own_reply() -> None:
    asked: list[list[Prompt]] = []

    def answer(prompts: list[Prompt]) -> list[Reply]:
        asked.append(prompts)
        return [Reply(prompt, 0.0, (ord("!"),), (0,), (0.0,)) for prompt in prompts]

    questions = [
        Question("1", "one", ("a", "b")),
        Question("2", "two", ("c",)),
        Question("3", "two", ("d", "e" * 9)),
    ]
    found = ask_questions(questions, Echo(), 8, answer)
    texts = [[Echo().text(prompt.tokens) for prompt in prompts] for prompts in asked]
    assert texts == [["a", "c", "d"], ["a!b"]]
    assert [(reply.prompt.name, reply.prompt.seed) for reply in found.replies] == [
        ("question 1, turn 1", 1),
        ("question 2, turn 1", 2),
        ("question 3, turn 1", 3),
        ("question 1, turn 2", 1),
    ]
    assert found.notes == ["question 3, turn 2 has 11 tokens, too many: left out"]


def test_steps_of_each_width_are_timed(pair: ServedPair) -> None:
    question = {"text": list(range(40)), "widths": [1, 2, 8], "seconds": 0.0, "idle_ms": 0.0}
    answer = TimedModel(pair.target).answer(question)
    assert [len(each) for each in answer["step_ms"]] == [3, 3, 3]
    assert min(min(each) for each in answer["step_ms"]) > 0
    assert answer["prefill_ms"] > 0
