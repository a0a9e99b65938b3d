import errno
import fcntl
import json
import subprocess
import sys
import threading
from collections import Counter

import pytest

from wsidata.jobs import claims
from wsidata.jobs.claims import SharedRun, SharedRunError

ITEMS = [f"slide {number}" for number in range(8)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(claims, "POLL_S", 0.01)


def lengths(taken, done=None, retry=()):
    for key in taken:
        if done is not None:
            done.append(key)
        yield key, {"length": len(key), **({"retry": True} if key in retry else {})}


def run_alone(folder, settings, done=None, retry=(), keeps=True):
    with SharedRun(folder, settings, keeps=keeps) as run:
        return dict(run.outcomes(ITEMS, lambda taken: lengths(taken, done, retry)))


def test_each_item_is_done_by_one_job_and_all_jobs_get_all(tmp_path):
    done, found, start = [], [], threading.Barrier(4)

    def job():
        start.wait()
        found.append(run_alone(tmp_path, {"mpp": 2}, done))

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert Counter(done) == Counter(ITEMS)
    assert found == [{key: {"length": 7} for key in ITEMS}] * 4


def test_a_later_run_takes_up_results_and_tries_failures_again(tmp_path):
    run_alone(tmp_path, {"mpp": 2}, retry=ITEMS[:2])
    done = []
    assert run_alone(tmp_path, {"mpp": 2}, done) == {key: {"length": 7} for key in ITEMS}
    assert done == ITEMS[:2]


def test_what_failed_in_one_job_is_not_tried_again_by_others_of_the_run(tmp_path):
    with SharedRun(tmp_path, {}) as first:
        dict(first.outcomes(ITEMS, lambda taken: lengths(taken, retry=ITEMS[:2])))
        done = []
        assert run_alone(tmp_path, {}, done)[ITEMS[0]] == {"length": 7, "retry": True}
        assert not done


def test_results_go_with_the_last_job_unless_they_are_to_stay(tmp_path):
    with SharedRun(tmp_path, {}):
        run_alone(tmp_path, {}, keeps=False)
        assert len([*tmp_path.glob("*.json")]) == len(ITEMS) + 1
    run_alone(tmp_path, {}, keeps=False)
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "settings.lock"}


def test_jobs_of_other_settings_are_refused_while_one_lives(tmp_path):
    with SharedRun(tmp_path, {"mpp": 2, "crop": "tissue"}):
        with pytest.raises(SharedRunError, match=r"differ from this one in 'mpp'. Start all jobs.*same command"):
            run_alone(tmp_path, {"mpp": 1, "crop": "tissue"})
        run_alone(tmp_path, {"mpp": 2, "crop": "tissue"})
    run_alone(tmp_path, {"mpp": 1, "crop": "tissue"})


def test_a_damaged_result_is_none(tmp_path):
    run_alone(tmp_path, {})
    with SharedRun(tmp_path, {}, keeps=True) as run:
        path = run._paths(ITEMS[3])[0]
    for damage in ("", path.read_text()[:-9], json.dumps({"key": "another", "result": {}}), "[1, 2]"):
        path.write_text(damage)
        done = []
        run_alone(tmp_path, {}, done)
        assert done == [ITEMS[3]]


def test_the_first_job_prepares_before_others_begin(tmp_path):
    with SharedRun(tmp_path, {}, prepare=lambda run: run.finish(ITEMS[0], {"length": -1})):
        done = []
        assert run_alone(tmp_path, {}, done)[ITEMS[0]] == {"length": -1}
        assert done == ITEMS[1:]


def test_an_error_gives_back_what_was_taken(tmp_path):
    def fails(taken):
        next(taken)
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError), SharedRun(tmp_path, {}) as run:
        dict(run.outcomes(ITEMS, fails))
    assert len(run_alone(tmp_path, {})) == len(ITEMS)


def test_a_file_system_without_locks_is_an_error_and_no_soft_lock_is_made(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=r"cannot be locked here.*mounted with locks, or use one job"):
        SharedRun(tmp_path, {}).__enter__()


HANGS = """
import sys, time
from wsidata.jobs.claims import SharedRun
with SharedRun(sys.argv[1], {}) as run:
    print(run.take("slide 2"), run.take("slide 5"), flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_what_a_killed_job_had_taken_is_done_by_another(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HANGS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "True True\n"
        done = []
        found = []
        other = threading.Thread(target=lambda: found.append(run_alone(tmp_path, {}, done)))
        other.start()
        other.join(1)
        assert other.is_alive()
        assert done == [one for one in ITEMS if one not in ("slide 2", "slide 5")]
        killed.kill()
    other.join(10)
    assert sorted(done) == ITEMS
    assert found == [{key: {"length": 7} for key in ITEMS}]
    assert not [*tmp_path.glob("job-*")]
