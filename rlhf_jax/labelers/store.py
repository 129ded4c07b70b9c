"""What is to be labelled, who does it, and what they said: one SQLite file, which many processes may use at once.

Every change is one transaction, begun with BEGIN IMMEDIATE, so that one writes at a time and what was read still holds when
it is written. In WAL mode with synchronous = FULL a change that was answered is on the disk: neither a killed process nor a
power cut loses it. WAL needs shared memory, which network file systems have not: keep the file on a disk of the machine.

A task goes to `wanted` different labelers. What they are given is leased: a place that is leased or filled is nobody
else's, a lease that ran out frees its place, and who comes late may still fill it while it is free.
"""

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import InputError, shortened
from rlhf_jax.labelers.judgement import (
    Comparison,
    Judgement,
    checked_comparison,
    checked_judgement,
    checked_text,
    comparison_of,
    comparison_row,
)
from rlhf_jax.labelers.writing import WRITINGS, Assignment, Written, checked_assignment, checked_written

APPLICATION, VERSION = 0x524C4846, 1  # "RLHF": whose file it is, and of which form
COMPARISON = "comparison"
KINDS = (COMPARISON, *WRITINGS)
SCHEMA = """
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY,     -- the order in which they are handed out
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    wanted INTEGER,                 -- by how many labelers; null: each of them, whose answer is compared with what is known
    body TEXT NOT NULL,             -- JSON of the Comparison or Assignment
    known TEXT                      -- JSON of what is known
);
CREATE TABLE labelers (
    name TEXT PRIMARY KEY,
    team TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE      -- its SHA-256; the token itself is nowhere
);
CREATE TABLE leases (
    task INTEGER NOT NULL REFERENCES tasks,
    labeler TEXT NOT NULL REFERENCES labelers,
    until REAL NOT NULL,
    PRIMARY KEY (task, labeler)
);
CREATE TABLE shown (                -- how a task looks to a labeler, drawn when they are first given it
    key TEXT PRIMARY KEY,           -- what they know it by: ids may say what completions come from, or what screens
    task INTEGER NOT NULL REFERENCES tasks,
    labeler TEXT NOT NULL REFERENCES labelers,
    places TEXT NOT NULL,           -- JSON of the order of the completions
    UNIQUE (task, labeler)
);
CREATE TABLE owner (
    token TEXT NOT NULL             -- of who may see everything; its SHA-256
);
CREATE TABLE submissions (
    id TEXT PRIMARY KEY,
    task INTEGER NOT NULL REFERENCES tasks,
    labeler TEXT NOT NULL,
    skipped INTEGER NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0,   -- kept, so that the same one is not taken again
    time REAL NOT NULL,
    body TEXT NOT NULL              -- JSON of what was said
);
CREATE INDEX leases_of ON leases (labeler);
CREATE UNIQUE INDEX once ON submissions (task, labeler) WHERE undone = 0;
CREATE INDEX submissions_of ON submissions (labeler);
"""
# Of a task: how many have done it, and for how many others it is reserved at a time.
DONE = "(SELECT count(*) FROM submissions s WHERE s.task = tasks.number AND s.undone = 0 AND s.skipped = 0)"
RESERVED = "(SELECT count(*) FROM leases l WHERE l.task = tasks.number AND l.until > :now AND l.labeler <> :labeler)"
TOUCHED = "EXISTS (SELECT 1 FROM submissions s WHERE s.task = tasks.number AND s.labeler = :labeler AND s.undone = 0)"


class RefusedError(InputError):
    """What a labeler may not do: it is well formed, and comes from nobody, twice, too late, or unasked."""


class DiskError(InputError):
    """What the disk or another program does to the file: the same call may succeed later."""


class Person(NamedTuple):
    name: str
    group: str


class Lease(NamedTuple):
    """A task that somebody has been given, and the time until which it is theirs."""

    task: Comparison | Assignment
    until: float
    key: str  # random: what the labeler knows the task by
    order: tuple[int, ...]  # random: that they see the completions in, as `Judgement.order`


class Share(NamedTuple):
    """A labeler's own part of the work."""

    done: int  # skipped ones too
    left: int  # that they may still be given, which others may be quicker at


class Progress(NamedTuple):
    """How far the tasks are that do not screen."""

    wanted: int  # submissions that are asked for
    done: int
    missing: int  # of those that are asked for
    leased: int  # places that somebody is at work on
    skipped: int
    stuck: int  # tasks with a submission missing that every labeler has done or skipped: add labelers, or tasks


class Store:
    """The file at `path`, which is made where there is none. It may be used by several threads; each process opens its own.

    is_new: whether it was made.
    lease: seconds after which a task that was given to somebody returns. clock: the time in seconds since 1970.
    InputError: the file is no store, or of another version; with create=False, it is not there.
    """

    def __init__(
        self, path: Path | str, *, lease: float = 1800.0, clock: Callable[[], float] = time.time, create: bool = True
    ):
        self.path, self._lease, self._clock, self._lock = Path(path), lease, clock, threading.RLock()
        self.is_new = not self.path.is_file() or not self.path.stat().st_size
        if not create and self.is_new:
            raise InputError(f"{self.path}: no such store: check the path")
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Transactions begin where we say so; a lock keeps the threads apart.
            self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA synchronous = FULL")
        if self._pragma("application_id") == 0 and self._db.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._change():
                if self._pragma("application_id") == 0:  # no other process was quicker
                    for statement in SCHEMA.split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA application_id = {APPLICATION}")
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
        if self._pragma("application_id") != APPLICATION:
            raise InputError(f"{self.path} is a database and no store of labels: name another file")
        if (version := self._pragma("user_version")) != VERSION:
            raise InputError(
                f"{self.path} is a store of version {version}, and this program reads {VERSION}: update it"
            )

    def close(self) -> None:
        """Closes the file. What was answered is on the disk with or without it."""
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    # Tasks.

    def add_tasks(self, tasks: Sequence[Comparison | Assignment], wanted: int = 1) -> int:
        """Asks for `wanted` submissions to each task, by different labelers; how many tasks are new. A task that is there
        already stays, and its `wanted` becomes this one. InputError: it is there with another text; see
        `checked_comparison` and `checked_assignment`."""
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise InputError(f"wanted is {shortened(wanted)}: ask for one submission or more")
        rows = [_task_row(task) for task in tasks]
        with self._change():
            return sum(self._add(*row, wanted=wanted, known=None) for row in rows)

    def add_screening(self, known: Sequence[Judgement]) -> int:
        """Tasks that every labeler is given before others, to see whether they agree with somebody whose judgements are
        known. How many are new. InputError: a judgement with which nobody can agree or disagree."""
        judgements = [checked_judgement(each) for each in known]
        for each in judgements:
            if len(set(each.ranks)) < 2 and not any(each.flags):
                raise InputError(
                    f"the known judgement of {shortened(each.task)} has no answer above another, and no flags, so that it "
                    "screens nobody: rank the answers, or leave it out"
                )
        with self._change():
            return sum(
                self._add(*_task_row(_comparison(each)), wanted=None, known=json.dumps(_said(each)))
                for each in judgements
            )

    def _add(self, id: str, kind: str, source: str, body: str, *, wanted: int | None, known: str | None) -> bool:
        found = self._row("SELECT number, body, known FROM tasks WHERE id = ?", id)
        if found is None:
            self._db.execute(
                "INSERT INTO tasks (id, kind, source, wanted, body, known) VALUES (?, ?, ?, ?, ?, ?)",
                (id, kind, source, wanted, body, known),
            )
            return True
        if found[1:] != (body, known):
            raise InputError(f"there is another task {shortened(id)} in {self.path}: give each an id of its own")
        self._db.execute("UPDATE tasks SET wanted = ? WHERE number = ?", (wanted, found[0]))
        return False

    # Labelers.

    def add_labeler(self, name: str, group: str = "") -> str:
        """A new labeler's token, which is shown once and kept as its SHA-256. InputError: there is one of that name."""
        checked_text(group, "group")
        if not checked_text(name, "name").strip():
            raise InputError("the labeler has no name: give one")
        if name != name.strip():
            raise InputError(f"the labeler's name {name!r} has white space at an end: leave it out")
        token = secrets.token_urlsafe(32)
        with self._change():
            if self._row("SELECT 1 FROM labelers WHERE name = ?", name):
                raise InputError(f"there is a labeler called {name} already: give this one a name of their own")
            self._db.execute("INSERT INTO labelers VALUES (?, ?, ?)", (name, group, _sha256(token)))
        return token

    def renew_token(self, name: str) -> str:
        """Another token in the place of one that was lost, or got about. InputError: nobody is called so."""
        token = secrets.token_urlsafe(32)
        with self._change():
            self._person(name)
            self._db.execute("UPDATE labelers SET token = ? WHERE name = ?", (_sha256(token), name))
        return token

    def labelers(self) -> list[Person]:
        """All of them, by name."""
        return [Person(*row) for row in self._rows("SELECT name, team FROM labelers ORDER BY name")]

    def labeler_of(self, token: str) -> Person | None:
        """Whose token it is; None: nobody's. How long it takes says nothing of how much of it is right."""
        given, found = _sha256(token), None
        for name, team, kept in self._rows("SELECT name, team, token FROM labelers"):
            if hmac.compare_digest(given, kept):
                found = Person(name, team)
        return found

    def renew_owner(self) -> str:
        """A token for who may see everything, in the place of the one before it. It is shown once, as a labeler's is."""
        token = secrets.token_urlsafe(32)
        with self._change():
            self._db.execute("DELETE FROM owner")
            self._db.execute("INSERT INTO owner VALUES (?)", (_sha256(token),))
        return token

    def is_owner(self, token: str) -> bool:
        """Whether it is the owner's; compared as `labeler_of` compares."""
        given = _sha256(token)
        return any(hmac.compare_digest(given, kept) for (kept,) in self._rows("SELECT token FROM owner"))

    def _person(self, name: str) -> Person:
        found = self._row("SELECT name, team FROM labelers WHERE name = ?", name)
        if found is None:
            raise RefusedError(f"nobody is called {shortened(name)} here: add them as a labeler")
        return Person(*found)

    # Work.

    def lease(self, labeler: str, kinds: Sequence[str] = KINDS) -> Lease | None:
        """The next task of these kinds for a labeler, or the one that they have already; None: there is none for them.

        Those that screen go first, then the oldest; never one that they have done or skipped, nor one of which all places
        are filled or leased. RefusedError: nobody is called so.
        """
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise InputError(f"there are no tasks of the kind {shortened(unknown[0])}: there are {', '.join(KINDS)}")
        of_kind = f"kind IN ({', '.join(map(repr, kinds)) or 'NULL'})"
        with self._change():
            now = self._clock()
            self._person(labeler)
            names = {"labeler": labeler, "now": now}
            held = (
                "SELECT number, kind, body FROM tasks JOIN leases ON task = number "
                f"WHERE labeler = :labeler AND until > :now AND {of_kind} ORDER BY number LIMIT 1"
            )
            free = f"SELECT number, kind, body FROM tasks WHERE {of_kind} AND NOT {TOUCHED} AND"
            screens = f"{free} wanted IS NULL ORDER BY number LIMIT 1"
            waiting = f"{free} wanted > {DONE} + {RESERVED} ORDER BY number LIMIT 1"
            found = self._row(held, names) or self._row(screens, names) or self._row(waiting, names)
            if found is None:
                return None
            number, kind, body = found
            return self._leased(number, labeler, _task_of(kind, body))

    def _leased(self, number: int, labeler: str, task: Comparison | Assignment) -> Lease:
        until = self._clock() + self._lease
        self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (number, labeler, until))
        order = list(range(len(task.completions))) if isinstance(task, Comparison) else []
        secrets.SystemRandom().shuffle(order)
        self._db.execute(
            "INSERT OR IGNORE INTO shown VALUES (?, ?, ?, ?)",
            (secrets.token_urlsafe(12), number, labeler, json.dumps(order)),
        )
        key, places = self._row("SELECT key, places FROM shown WHERE task = ? AND labeler = ?", number, labeler)
        return Lease(task, until, key, tuple(json.loads(places)))

    def given(self, labeler: str, key: str) -> Lease:
        """What a labeler was given, by the key that they know it by; its time may be over. RefusedError: nothing was."""
        found = self._row(
            "SELECT kind, body, coalesce(until, 0.0), places FROM shown JOIN tasks ON shown.task = number "
            "LEFT JOIN leases ON leases.task = number AND leases.labeler = shown.labeler "
            "WHERE key = ? AND shown.labeler = ?",
            checked_text(key, "the key"),
            labeler,
        )
        if found is None:
            raise RefusedError(f"{labeler} was given no task by this key: ask for one")
        kind, body, until, places = found
        return Lease(_task_of(kind, body), until, key, tuple(json.loads(places)))

    def submit(self, given: Judgement | Written) -> bool:
        """Keeps what somebody said of a task that was leased to them, or why they skipped it; False: it is kept already, or
        was taken back. The group is the labeler's, and a time that is missing is now. When it returns it is on the disk.

        The id of a submission is its sender's: the same one twice is one. InputError: see `checked_judgement` and
        `checked_written`. RefusedError: no id, or another submission's; an unknown labeler or task, or other completions
        than the task's; they were never given it, have done it before, or were too late and others have.
        """
        given = checked_judgement(given) if isinstance(given, Judgement) else checked_written(given)
        task = _comparison(given) if isinstance(given, Judgement) else _assignment(given)
        if not given.id.strip():
            raise RefusedError("the submission has no id: give each one of its own")
        with self._change():
            now = self._clock()
            group = self._person(given.labeler).group
            given = given._replace(group=group, time=now if given.time is None else given.time)
            found = self._row("SELECT number, wanted, body FROM tasks WHERE id = ?", given.task)
            if found is None or found[2] != _task_row(task)[3]:
                raise RefusedError(f"there is no such task as {shortened(given.task)} here: ask for one")
            number, wanted, _ = found
            if self._is_kept(given, number):
                return False
            names = {"labeler": given.labeler, "now": now, "number": number}
            touched, done, reserved = self._row(
                f"SELECT {TOUCHED}, {DONE}, {RESERVED} FROM tasks WHERE number = :number", names
            )
            lease = self._row("SELECT until FROM leases WHERE task = :number AND labeler = :labeler", names)
            if touched:
                raise RefusedError(f"{given.labeler} has done this task already: undo that first")
            if lease is None:
                raise RefusedError(f"this task was not given to {given.labeler}: ask for one")
            if wanted is not None and not given.skipped and done + reserved >= wanted:
                raise RefusedError("this task went to others after its time had run out: ask for another")
            self._keep(given, number)
            self._db.execute("DELETE FROM leases WHERE task = :number AND labeler = :labeler", names)
        return True

    def undo(self, labeler: str) -> Lease | None:
        """Takes a labeler's last submission back, and leases its task to them again in the place of what they have; None:
        there is none. RefusedError: nobody is called so."""
        with self._change():
            self._person(labeler)
            last = self._row(
                "SELECT submissions.rowid, number, kind, tasks.body FROM submissions JOIN tasks ON task = number "
                "WHERE labeler = ? AND undone = 0 ORDER BY submissions.rowid DESC LIMIT 1",
                labeler,
            )
            if last is None:
                return None
            row, number, kind, body = last
            self._db.execute("UPDATE submissions SET undone = 1 WHERE rowid = ?", (row,))
            self._db.execute("DELETE FROM leases WHERE labeler = ?", (labeler,))
            return self._leased(number, labeler, _task_of(kind, body))

    def add_judgements(self, judgements: Sequence[Judgement]) -> int:
        """Takes what another store or a file has, under the names of its labelers; how many are new. Tasks that are not
        there are added, with nothing more wanted. RefusedError: a judgement without id; an id that is another's; somebody
        who has judged it here already. None is taken then."""
        new = 0
        with self._change():
            for given in map(checked_judgement, judgements):
                if not given.id.strip():
                    raise RefusedError(f"{given.labeler}'s judgement of {shortened(given.task)} has no id: give it one")
                id, kind, source, body = _task_row(_comparison(given))
                if self._row("SELECT 1 FROM tasks WHERE id = ? AND body = ?", id, body) is None:
                    self._add(id, kind, source, body, wanted=0, known=None)
                number, known = self._row("SELECT number, known FROM tasks WHERE id = ?", id)
                if known is not None:
                    raise RefusedError(
                        f"{shortened(id)} screens labelers here, and no judgement of it is exported: give the task of "
                        f"{given.labeler}'s judgement an id of its own"
                    )
                if self._is_kept(given, number):
                    continue
                names = {"labeler": given.labeler, "number": number}
                if self._row(f"SELECT {TOUCHED} FROM tasks WHERE number = :number", names)[0]:
                    raise RefusedError(f"{given.labeler} has judged {shortened(given.task)} already: undo that first")
                self._keep(given, number)
                new += 1
        return new

    def _is_kept(self, given: Judgement | Written, number: int) -> bool:
        kept = self._row("SELECT task, labeler, body FROM submissions WHERE id = ?", given.id)
        if kept is None:
            return False
        said = [{**_said(given), "time": None}, {**json.loads(kept[2]), "time": None}]
        if kept[:2] != (number, given.labeler) or said[0] != said[1]:
            raise RefusedError("there is another submission of this id: give each one of its own")
        return True

    def _keep(self, given: Judgement | Written, number: int) -> None:
        at = self._clock() if given.time is None else given.time
        said = json.dumps(_said(given))
        self._db.execute(
            "INSERT INTO submissions (id, task, labeler, skipped, time, body) VALUES (?, ?, ?, ?, ?, ?)",
            (given.id, number, given.labeler, bool(given.skipped), at, said),
        )

    # What there is.

    def progress(self, source: str | None = None) -> Progress:
        """Of all tasks, or of those of one source."""
        each = f"""
            SELECT wanted, {DONE} AS done, (
                SELECT count(*) FROM leases l WHERE l.task = number AND l.until > :now
            ) AS leased, (
                SELECT count(*) FROM submissions s WHERE s.task = number AND undone = 0 AND skipped = 1
            ) AS skipped, NOT EXISTS (
                SELECT 1 FROM labelers p WHERE NOT EXISTS (
                    SELECT 1 FROM submissions s WHERE s.task = number AND undone = 0 AND s.labeler = p.name
                )
            ) AS nobody
            FROM tasks WHERE wanted IS NOT NULL AND (:source IS NULL OR source = :source)
        """
        sums = f"""
            SELECT total(wanted), total(done), total(max(wanted - done, 0)), total(leased), total(skipped),
                total(wanted > done AND nobody)
            FROM ({each})
        """
        return Progress(*map(int, self._row(sums, {"now": self._clock(), "source": source})))

    def share(self, labeler: str) -> Share:
        """What a labeler has done, and what may still be theirs, screening included."""
        sums = f"""
            SELECT (SELECT count(*) FROM submissions WHERE labeler = :labeler AND undone = 0),
                (SELECT count(*) FROM tasks WHERE NOT {TOUCHED} AND (wanted IS NULL OR wanted > {DONE} + {RESERVED}))
        """
        return Share(*self._row(sums, {"labeler": labeler, "now": self._clock()}))

    def judgements(self, source: str | None = None) -> list[Judgement]:
        """What was said of comparisons, of all or of one source, skipped ones too, in the order of the tasks; nothing that
        was taken back, or that screens."""
        found = self._submitted("kind = :kind AND known IS NULL AND (:source IS NULL OR source = :source)", source)
        return [_comparison_from(body).judged(labeler, **json.loads(said)) for labeler, body, said, _ in found]

    def screening(self) -> list[tuple[Judgement, Judgement]]:
        """What is known, and what each labeler said of the same completions."""
        found = self._submitted("kind = :kind AND known IS NOT NULL", None)
        pairs = []
        for labeler, body, said, known in found:
            task, right = _comparison_from(body), json.loads(known)
            pairs.append((task.judged("known", **right), task.judged(labeler, **json.loads(said))))
        return pairs

    def written(self, source: str | None = None) -> list[Written]:
        """Demonstrations and prompts that labelers wrote, as `judgements` has judgements."""
        found = self._submitted("kind <> :kind AND (:source IS NULL OR source = :source)", source)
        return [Assignment(**json.loads(body)).written(labeler, **json.loads(said)) for labeler, body, said, _ in found]

    def _submitted(self, where: str, source: str | None) -> list[Any]:
        return self._rows(
            "SELECT labeler, tasks.body, submissions.body, known FROM submissions JOIN tasks ON task = number "
            f"WHERE undone = 0 AND {where} ORDER BY number, submissions.rowid",
            {"kind": COMPARISON, "source": source},
        )

    # SQLite.

    @contextmanager
    def _change(self) -> Iterator[None]:
        """All of it, or, if anything is raised, nothing."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """One thread at a time; what the disk or another program does is an InputError."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise DiskError(
                    f"{self.path} cannot be used ({error}): check the file and its disk, and try again"
                ) from error

    def _pragma(self, name: str) -> Any:
        return self._db.execute(f"PRAGMA {name}").fetchone()[0]

    def _rows(self, query: str, *given: Any) -> list[Any]:
        values = given[0] if given and isinstance(given[0], dict) else given
        with self._explained():
            return self._db.execute(query, values).fetchall()

    def _row(self, query: str, *given: Any) -> Any:
        return next(iter(self._rows(query, *given)), None)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _task_row(task: Comparison | Assignment) -> tuple[str, str, str, str]:
    """id, kind, source and JSON."""
    if isinstance(task, Comparison):
        task = checked_comparison(task)
        return task.id, COMPARISON, task.source, json.dumps(comparison_row(task))
    task = checked_assignment(task)
    return task.id, task.kind, task.source, json.dumps(task._asdict())


def _task_of(kind: str, body: str) -> Comparison | Assignment:
    return _comparison_from(body) if kind == COMPARISON else checked_assignment(Assignment(**json.loads(body)))


def _comparison_from(body: str) -> Comparison:
    return comparison_of(json.loads(body))


def _comparison(given: Judgement) -> Comparison:
    return Comparison(given.task, given.prompt, given.completions, given.user, given.source)


def _assignment(given: Written) -> Assignment:
    return Assignment(given.task, given.kind, given.about, given.user, given.source)


def _said(given: Judgement | Written) -> dict[str, Any]:
    """As JSON has it, what a submission has beside its task and its labeler."""
    about = {*Comparison._fields, *Assignment._fields, "task", "labeler"} - {"id"}
    return json.loads(json.dumps({key: value for key, value in given._asdict().items() if key not in about}))
