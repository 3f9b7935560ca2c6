"""What clients may ask of jobs."""

import pytest

from tunewright.jobs import board
from tunewright.jobs.paging import UnknownCursor


def ids(page):
    return [row["id"] for row in page.rows]


def test_a_job_is_found_with_what_it_was_asked(database, add):
    job = board.get_job(database, add(metadata={"team": "a", 'it\'s "odd".$': "x"}))
    assert job["status"] == "validating_files" and job["tuned_name"].startswith(
        "ft:gpt-4o-mini-2024-07-18:local:mine:"
    )
    events = board.list_events(database, job["id"]).rows
    assert [event["message"].split(":")[0] for event in events] == [
        "Validating training file", "Created fine-tuning job"
    ]  # fmt: skip
    with pytest.raises(KeyError):
        board.get_job(database, "ftjob-none")
    with pytest.raises(KeyError):
        board.get_job(database, job["id"], owner="another")


def test_pages_follow_the_cursor_without_gap_or_repeat(database, add):
    made = [add() for _ in range(7)]
    seen, after = [], None
    while True:
        page = board.list_jobs(database, after=after, limit=3)
        seen += ids(page)
        if not page.has_more:
            break
        after = seen[-1]
        add()  # newer ones do not disturb those that follow
    assert seen == made[::-1]
    with pytest.raises(UnknownCursor):
        board.list_jobs(database, after="ftjob-none")


def test_metadata_filters(database, add):
    one, two = add(metadata={"team": "a", "n": "1"}), add(metadata={"team": "a", "n": "2"})
    odd, none = add(metadata={'a"b.$[0]': "'; --"}), add()
    assert ids(board.list_jobs(database, metadata={"team": "a"})) == [two, one]
    assert ids(board.list_jobs(database, metadata={"team": "a", "n": "1"})) == [one]
    assert ids(board.list_jobs(database, metadata={'a"b.$[0]': "'; --"})) == [odd]
    assert ids(board.list_jobs(database, without_metadata=True)) == [none]


def test_states_change_as_the_picture_says(database, add):
    job = add()
    assert board.pause_job(database, job)["status"] == "paused"
    with pytest.raises(board.WrongStateError, match="paused"):
        board.pause_job(database, job)
    assert board.resume_job(database, job)["status"] == "validating_files"
    before = board.get_job(database, job)["fence"]
    ended = board.cancel_job(database, job)
    assert ended["status"] == "cancelled" and ended["finished_at"] and ended["fence"] > before
    for change in (board.cancel_job, board.pause_job, board.resume_job):
        with pytest.raises(board.WrongStateError):
            change(database, job)
        with pytest.raises(KeyError):
            change(database, job, owner="another")


def test_permissions_of_a_checkpoint(database):
    made = board.add_permissions(database, "m", ["p1", "p2"])
    assert [row["id"] for row in board.add_permissions(database, "m", ["p1"])] == [made[0]["id"]]
    assert ids(board.list_permissions(database, "m")) == [made[1]["id"], made[0]["id"]]
    assert ids(board.list_permissions(database, "m", project="p2")) == [made[1]["id"]]
    board.drop_permission(database, "m", made[0]["id"])
    with pytest.raises(KeyError):
        board.drop_permission(database, "m", made[0]["id"])
