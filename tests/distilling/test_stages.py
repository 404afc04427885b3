"""The parts between the replies and the draft: writing, scoring, vocabulary, student, batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from outrider_server.core.progress import silent
from outrider_server.distilling.assignments import prompted, self_prompted
from outrider_server.distilling.batches import (
    BATCH_TOKENS,
    all_batches,
    epoch_batches,
    load_batch,
    split_replies,
)
from outrider_server.distilling.dialogue import ReplyRules
from outrider_server.distilling.display import Advance
from outrider_server.distilling.draft_vocabulary import DraftVocabulary, choose_vocabulary
from outrider_server.distilling.prompts import read_prompts
from outrider_server.distilling.reply import Reply
from outrider_server.distilling.scores import ScoredReplies, ScoreFiles, learning_temperature
from outrider_server.distilling.scoring import score_replies
from outrider_server.distilling.settings import DistillSettings
from outrider_server.distilling.student import build_student
from outrider_server.distilling.target import build_target, reply_rules
from outrider_server.distilling.writing import Writer
from outrider_server.engine.engine import Engine
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.starting import Start
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.models_for_tests import VOCABULARY_SIZE, tiny_llama

from .subjects import replies, talker, without_template, write_lines

TEMPERATURES = (0.0, 1.0)


class Unseen:
    """A display that nobody looks at."""

    def show(self, advance: Advance) -> None:
        pass

    def say(self, sentence: str) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talker(tmp_path_factory.mktemp("models") / "talker")


def rules_of(folder: Path, slots: int, context: int = 96) -> tuple[Engine, ReplyRules]:
    options = EngineOptions(
        folder=folder,
        slots=slots,
        park_bytes=0,
        max_context_tokens=context,
        compile="off",
        threads=1,
    )
    settings = DistillSettings(engine=options, output=Path("unused"), tokens=1, reply_tokens=20)
    engine = build_target(options, Start(silent))
    return engine, reply_rules(engine, settings)


def written(folder: Path, slots: int, count: int, prompts: Path | None = None) -> list[Reply]:
    """The replies of the first conversations."""
    engine, rules = rules_of(folder, slots)
    conversations = (
        self_prompted(rules, TEMPERATURES, 0)
        if prompts is None
        else prompted(read_prompts([prompts]), rules, TEMPERATURES, 0)
    )
    found = islice(Writer(engine, conversations).replies(), count)
    return [reply for _, each in found for reply in each]


# Writing


def test_replies_do_not_depend_on_what_is_written_beside_them(folder: Path) -> None:
    alone, together = written(folder, 1, 16), written(folder, 4, 16)
    assert alone == together
    assert {reply.temperature for reply in alone} == set(TEMPERATURES)
    assert all(reply.tokens[-1] == 3 or len(reply.tokens) == 20 for reply in alone)


def test_a_prompt_of_the_target_begins_as_its_template_does(folder: Path) -> None:
    for reply in written(folder, 4, 8):
        assert (reply.prompt[0], reply.prompt[-2:]) == (2, (3, 4))


def test_a_reply_is_the_text_before_a_later_turn(folder: Path, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "prompts", [{"turns": ["w5 w6", "w7"]}])
    first, second = written(folder, 2, 1, prompts)
    assert first.prompt == (2, 5, 6, 3, 4)
    said = tuple(token for token in first.tokens if token != 3)
    assert second.prompt == (2, 5, 6, 3, 2, *said, 3, 2, 7, 3, 4)


def test_a_greedy_reply_is_the_library_models(folder: Path, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "prompts", [{"prompt": "w9 w8"}])
    (reply,) = written(folder, 2, 1, prompts)
    assert reply.temperature == 0.0
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([reply.prompt + reply.tokens])
    greedy = model(ids).logits[0, len(reply.prompt) - 1 : -1].argmax(-1)
    assert greedy.tolist() == list(reply.tokens)


def test_a_model_without_a_template_goes_on_with_what_it_began(tmp_path: Path) -> None:
    found = written(without_template(tmp_path / "base"), 4, 8)
    assert found
    assert all(reply.prompt[0] == 3 and 3 not in reply.prompt[1:] for reply in found)


def test_each_prompt_gets_each_temperature_and_greedy_ones_once(folder: Path) -> None:
    _, rules = rules_of(folder, 1)
    numbers = {}
    prompts = read_prompts([Path(__file__).parent / "prompts.jsonl"])
    for number, _ in islice(prompted(prompts, rules, TEMPERATURES, 0), 9):
        numbers[number] = True
    assert list(numbers)[:6] == [0, 1, 2, 3, 4, 5]
    assert list(prompted(prompts, rules, (0.0,), 0))[-1][0] == len(prompts) - 1


# Scoring


def scored(folder: Path, place: Path, given: list[Reply], slots: int = 3) -> ScoredReplies:
    engine, _ = rules_of(folder, slots)
    files = ScoreFiles(place)
    score_replies(engine, given[files.count :], files, len(given), Unseen(), lambda: 0.0)
    return files.scored(len(given))


def test_scores_are_the_library_models_distributions(folder: Path, tmp_path: Path) -> None:
    given = replies(7)
    found = scored(folder, tmp_path / "scores", given)
    model = AutoModelForCausalLM.from_pretrained(folder)
    starts = found.position_starts()
    for reply, start in zip(given, starts, strict=True):
        logits = model(torch.tensor([reply.prompt + reply.tokens])).logits[0]
        before = logits[len(reply.prompt) - 1 : -1] / learning_temperature(reply.temperature)
        best, ids = before.log_softmax(-1).topk(VOCABULARY_SIZE)
        rows = found.positions[start : start + len(reply.tokens)]
        assert (rows["ids"][:, 0] == ids[:, 0].numpy()).all()
        kept = torch.from_numpy(rows["logprobs"][:, :VOCABULARY_SIZE].astype(np.float32))
        torch.testing.assert_close(kept, best.detach(), atol=0.02, rtol=0.002)


def test_scores_are_the_same_bits_wherever_a_run_was_stopped(folder: Path, tmp_path: Path) -> None:
    given = replies(9)
    scored(folder, tmp_path / "one", given)
    scored(folder, tmp_path / "two", given[:4], slots=2)
    for path, lost in (("tokens.bin", 3), ("positions.bin", 100), ("replies.bin", 5)):
        with (tmp_path / "two" / path).open("ab") as file:
            file.write(bytes(lost))  # as a kill may leave them
    scored(folder, tmp_path / "two", given, slots=1)
    for path in ("tokens.bin", "positions.bin", "replies.bin"):
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_a_reply_beyond_the_context_is_cut_and_one_without_room_left_out(
    folder: Path, tmp_path: Path
) -> None:
    long = Reply("a", (2,) * 90, (5,) * 10, 0.0)
    none = Reply("a", (2,) * 96, (5,), 0.0)
    found = scored(folder, tmp_path / "scores", [long, none, *replies(1)])
    assert found.replies["tokens"].tolist() == [6, 0, 12]
    assert found.replies["prompt"].tolist() == [90, 0, 4]
    assert 1 not in split_replies(found, 0).learnt


# Vocabulary and student


def test_the_most_frequent_tokens_are_known_and_those_that_end_a_text() -> None:
    counts = torch.tensor([0, 5, 3, 0, 3, 9, 0, 0])
    known = choose_vocabulary(counts, 5, 8, kept=[7])
    assert known.token_ids.tolist() == [1, 2, 5, 7]
    assert (known.rows, known.known, known.is_whole) == (5, 4, False)
    assert known.own_ids(-1).tolist() == [-1, 0, 1, -1, -1, 2, -1, 3]
    assert dict(known.entry()) == {"target_vocab_size": 8, "unknown": 4}


def test_ids_beyond_the_tokenizer_are_never_known() -> None:
    known = choose_vocabulary(torch.tensor([1, 1, 9, 9]), 3, 2, kept=[])
    assert known.token_ids.tolist() == [0, 1]


def test_a_whole_vocabulary_has_no_map() -> None:
    known = choose_vocabulary(torch.ones(8, dtype=torch.int64), None, 8, kept=[])
    assert (known.is_whole, known.rows) == (True, 8)


@pytest.fixture
def target() -> PreTrainedModel:
    return tiny_llama(num_hidden_layers=3, eos_token_id=5, pad_token_id=60)


def test_a_student_of_all_layers_and_tokens_is_the_target(target: PreTrainedModel) -> None:
    everything = choose_vocabulary(torch.ones(VOCABULARY_SIZE, dtype=torch.int64), None, 61, [])
    student = build_student(target, (0, 1, 2), everything)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(student(ids).logits, target(ids).logits)


def test_a_student_knows_rows_of_the_target_and_the_mean_of_the_others(
    target: PreTrainedModel,
) -> None:
    vocabulary = DraftVocabulary(torch.tensor([3, 5, 8]), 61, is_whole=False)
    student = build_student(target, (0, 2), vocabulary)
    rows = student.get_input_embeddings().weight
    whole = target.get_input_embeddings().weight
    torch.testing.assert_close(rows[:3], whole[[3, 5, 8]])
    others = [token for token in range(61) if token not in (3, 5, 8)]
    torch.testing.assert_close(rows[3], whole[others].mean(0))
    first = dict(student.named_parameters())["model.layers.1.mlp.up_proj.weight"]
    last = dict(target.named_parameters())["model.layers.2.mlp.up_proj.weight"]
    assert torch.equal(first, last)
    config = student.config
    assert (config.vocab_size, config.num_hidden_layers) == (4, 2)
    assert (config.eos_token_id, config.pad_token_id) == (1, None)


def test_a_tied_head_stays_tied() -> None:
    model = tiny_llama(tie_word_embeddings=True)
    vocabulary = DraftVocabulary(torch.tensor([3, 5, 8]), 61, is_whole=False)
    student = build_student(model, (1,), vocabulary)
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


# Batches


def some_scored(folder: Path, place: Path) -> ScoredReplies:
    return scored(folder, place, replies(30))


def test_every_reply_is_in_one_batch_of_an_epoch(folder: Path, tmp_path: Path) -> None:
    lengths = np.arange(40, 1000)
    learnt = np.arange(900)
    batches = epoch_batches(lengths, learnt, 0, 3)
    assert sorted(np.concatenate(batches).tolist()) == learnt.tolist()
    assert max(len(each) * int(lengths[each].max()) for each in batches) <= BATCH_TOKENS
    other = epoch_batches(lengths, learnt, 0, 4)
    assert [each.tolist() for each in batches] != [each.tolist() for each in other]


def test_batches_from_a_step_on_are_those_of_a_whole_run() -> None:
    lengths, learnt = np.full(50, 700), np.arange(50)

    def steps(first: int) -> Iterator[list[int]]:
        return (each.tolist() for each in islice(all_batches(lengths, learnt, 1), first, 40))

    assert list(steps(17)) == list(steps(0))[17:]


def test_no_prompt_is_both_learnt_and_held_out(folder: Path, tmp_path: Path) -> None:
    found = some_scored(folder, tmp_path / "scores")
    split = split_replies(found, 0)
    prompts = [index % 7 for index in range(30)]
    assert len(split.held_out) > 0
    assert sorted([*split.learnt, *split.held_out]) == list(range(30))
    learnt, held_out = (
        {prompts[index] for index in part} for part in (split.learnt, split.held_out)
    )
    assert not learnt & held_out


def test_a_batch_pairs_each_position_with_what_the_target_says_of_it(
    folder: Path, tmp_path: Path
) -> None:
    found = some_scored(folder, tmp_path / "scores")
    own = torch.arange(VOCABULARY_SIZE)
    own[40:] = -1
    chosen = np.array([4, 9])
    batch = load_batch(found, chosen, own, unknown=40)
    places = batch.decides.nonzero().tolist()
    assert len(places) == len(batch.own_ids) == 24
    given = replies(30)
    for at, (row, column) in enumerate(places):
        reply = given[int(chosen[row])]
        text = reply.prompt + reply.tokens
        assert batch.inputs[row, : column + 1].tolist() == [
            min(each, 40) for each in text[: column + 1]
        ]
        best = int(found.positions[batch.positions[at]]["ids"][0])
        assert batch.own_ids[at, 0] == (best if best < 40 else -1)
        assert batch.temperatures[at] == pytest.approx(learning_temperature(reply.temperature))
        assert bool(batch.is_greedy[at]) == (reply.temperature == 0)
