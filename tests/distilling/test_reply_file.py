"""Replies on the disk: what a kill leaves is mended, what is no reply is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from outrider_server.core.errors import StartupError
from outrider_server.distilling.reply import Reply
from outrider_server.distilling.reply_file import ReplyFile, Written, read_given

from .subjects import replies, write_lines


def begun(path: Path, given: int = 0) -> ReplyFile:
    file = ReplyFile(path)
    file.begin(replies(given))
    return file


def test_replies_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = begun(tmp_path / "replies", given=2)
    file.append(0, replies(3)[2:])
    *given, own = file.replies()
    assert given == replies(2)
    assert (own.conversation, own.tokens) == (0, replies(3)[2].tokens)
    assert file.written == Written(3, 36, 1)


@pytest.mark.parametrize("left", [1, 5, 200])
def test_a_cut_off_conversation_is_written_anew(left: int, tmp_path: Path) -> None:
    path = tmp_path / "replies"
    file = begun(path, given=1)
    file.append(0, replies(2))
    whole = path.read_bytes()
    file.append(2, replies(3))
    path.write_bytes(path.read_bytes()[: len(whole) + left])
    again = begun(path)
    # The last conversation that has a whole line may have lost others, so it goes too.
    assert again.written in (Written(1, 12, 0), Written(3, 36, 2))
    again.append(again.written.conversations, replies(2))
    assert len(list(again.replies())) == again.written.replies


def test_an_opened_file_goes_on_at_the_conversation_that_may_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "replies"
    file = begun(path)
    file.append(0, replies(1))
    file.append(3, replies(2))
    assert begun(path).written == Written(1, 12, 3)


def test_given_replies_alone_stay(tmp_path: Path) -> None:
    begun(tmp_path / "replies", given=3)
    assert begun(tmp_path / "replies").written == Written(3, 36, 0)


def test_the_first_replies_have_the_tokens_asked_for(tmp_path: Path) -> None:
    file = begun(tmp_path / "replies", given=4)
    assert [len(list(file.first(tokens))) for tokens in (1, 12, 13, 48, 1000)] == [1, 1, 2, 4, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([1], "it is no JSON object"),
        ({"prompt": [1], "reply": [2]}, "its temperature is no number of 0 to 100"),
        ({"prompt": [1], "reply": [2], "temperature": -1}, "its temperature is no number"),
        ({"prompt": "a", "reply": [2], "temperature": 1}, "its prompt is no list of token ids"),
        ({"prompt": [1], "reply": [], "temperature": 1}, "its reply is no list of token ids"),
        ({"prompt": [1], "reply": [-2], "temperature": 1}, "its reply has a token id below 0"),
        (
            {"prompt": [1], "reply": [61], "temperature": 1},
            "it has token id 61, and the target has",
        ),
    ],
)
def test_what_is_no_reply_is_refused_with_its_line(
    line: object, message: str, tmp_path: Path
) -> None:
    good = {"prompt": [1], "reply": [2], "temperature": 1}
    path = write_lines(tmp_path / "given", [good, line])
    with pytest.raises(StartupError, match=f"given, line 2: {message}"):
        list(read_given([path], vocabulary_size=61))


def test_given_replies_belong_to_no_conversation(tmp_path: Path) -> None:
    given = {"source": "a", "prompt": [1], "reply": [2], "temperature": 0, "conversation": 7}
    path = write_lines(tmp_path / "given", [given])
    assert list(read_given([path], 61)) == [Reply("a", (1,), (2,), 0.0)]
