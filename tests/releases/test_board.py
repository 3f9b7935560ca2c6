"""Releases: stages, who takes whose place, rolling back, canary shares."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_server import store_url
from tunewright.database.engine import open_database
from tunewright.errors import UserError
from tunewright.releases.board import (
    add_release,
    list_moves,
    list_releases,
    move_release,
    newest_move,
    roll_back,
)
from tunewright.releases.routing import make_routes, place_of


@pytest.fixture
def database(tmp_path):
    opened = open_database(store_url(tmp_path / "server.sqlite"))
    yield opened
    opened.close()


def enter(database, count, name="support"):
    return [
        add_release(database, name, f"/runs/{name}-{n}", {"model": f"{n}"}, who="me")
        for n in range(count)
    ]


def stages(database):
    return {release.version: release.stage for release in list_releases(database)}


def test_versions_count_up_and_a_run_is_entered_once(database):
    first, second = enter(database, 2)
    assert (first.id, second.id) == ("support@1", "support@2")
    assert add_release(database, "support", "/runs/support-0", {"model": "0"}, who="me") == first
    again = add_release(database, "support", "/runs/support-0", {"model": "new"}, who="me")
    assert again.version == 3  # the folder holds other weights now


def test_one_version_has_a_stage_for_itself(database):
    enter(database, 3)
    for version in (1, 2):
        move_release(database, "support", version, "production", who="me", why="x")
    move_release(database, "support", 3, "canary", who="me", why="x", share=0.3)
    assert stages(database) == {1: "archived", 2: "production", 3: "canary"}
    move_release(database, "support", 3, "production", who="me", why="x")
    assert stages(database) == {1: "archived", 2: "archived", 3: "production"}


def test_rolling_back_goes_to_the_version_before_and_again_to_the_one_before_that(database):
    enter(database, 3)
    for version in (1, 2, 3):
        move_release(database, "support", version, "production", who="me", why="x")
    assert roll_back(database, "support", who="me").version == 2
    assert roll_back(database, "support", who="me").version == 1
    with pytest.raises(UserError, match="nothing was in production before"):
        roll_back(database, "support", who="me")
    move_release(database, "support", 3, "production", who="me", why="mended")
    assert roll_back(database, "support", who="me").version == 1
    assert stages(database) == {1: "production", 2: "archived", 3: "archived"}


def test_rolling_back_ends_a_canary(database):
    enter(database, 3)
    for version in (1, 2):
        move_release(database, "support", version, "production", who="me", why="x")
    move_release(database, "support", 3, "canary", who="me", why="x")
    roll_back(database, "support", who="me")
    assert stages(database) == {1: "production", 2: "archived", 3: "archived"}


def test_every_move_is_written_down(database):
    enter(database, 1)
    before = newest_move(database)
    move_release(database, "support", 1, "shadow", who="ann", why="to see")
    (move, *_) = list_moves(database)
    assert (move.was, move.stage, move.who, move.why) == ("candidate", "shadow", "ann", "to see")
    assert newest_move(database) > before


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a" * 64, "a@1", "a b", ".hidden", "ä"])
def test_names_of_other_forms_are_refused(database, name):
    with pytest.raises(UserError, match="release name"):
        add_release(database, name, "/r", {}, who="me")


@pytest.mark.parametrize(
    ("stage", "share"), [("canary", 0.0), ("canary", 1.0), ("production", 0.5)]
)
def test_shares_that_make_no_sense_are_refused(database, stage, share):
    enter(database, 1)
    with pytest.raises(UserError, match="share"):
        move_release(database, "support", 1, stage, who="me", why="x", share=share)


def routes(database, share):
    enter(database, 2)
    move_release(database, "support", 1, "production", who="me", why="x")
    move_release(database, "support", 2, "canary", who="me", why="x", share=share)
    return make_routes(list_releases(database))["support"]


def test_a_canary_gets_its_share_and_everybody_the_same_answer_again(database):
    route = routes(database, 0.2)
    chosen = [route.choose(f"user-{n}").version for n in range(5000)]
    assert sum(version == 2 for version in chosen) / 5000 == pytest.approx(0.2, abs=0.02)
    assert chosen == [route.choose(f"user-{n}").version for n in range(5000)]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50), st.floats(0.01, 0.98))
def test_a_larger_share_keeps_who_was_in_the_smaller(who, share):
    inside = place_of("support", who) < share
    assert not inside or place_of("support", who) < share + 0.01
    assert 0 <= place_of("support", who) < 1
