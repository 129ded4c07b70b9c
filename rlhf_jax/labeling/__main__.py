"""rlhf-label: a store of labels and the page where people fill it, on the command line."""

import argparse
import socket
import sys

from rlhf_jax.data import located
from rlhf_jax.errors import InputError
from rlhf_jax.labelers import (
    COMPARISON,
    KINDS,
    Store,
    as_demonstrations,
    as_prompts,
    read_assignments,
    read_comparisons,
    read_judgements,
    write_demonstrations,
    write_judgements,
    write_prompts,
)

AT = "http://127.0.0.1:8000"
EXPORTS = ("judgements", "demonstrations", "prompts")


def main(line: list[str] | None = None) -> None:
    """Runs the command. Exit code 2 and one sentence: what the user can mend."""
    given = vars(_parser().parse_args(line))
    try:
        given.pop("command")(**given)
    except InputError as error:
        print(f"rlhf-label: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def serve(store: str, host: str, port: int, name: list[str]) -> None:
    """Serves the page until Ctrl-C. InputError: the extra is not installed; the port is taken."""
    try:
        import krippendorff  # noqa: F401 (the overview's)

        from rlhf_jax.labeling.app import server
    except ImportError as error:
        raise InputError(f"the page needs the package {error.name}: pip install 'rlhf_jax[label]'") from error
    if host in ("0.0.0.0", "::") and not name:
        raise InputError(f"on {host} any name may lead here: say by --name under which people reach the page")
    with Store(store, create=False) as opened:
        try:
            listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except (OSError, OverflowError) as error:
            raise InputError(f"{host}, port {port}, cannot be used ({error}): name others") from error
        hosts = [f"[{each}]" if ":" in each else each for each in (host, *name)]
        shown = f"[{host}]" if ":" in host else host
        print(f"{store}: http://{shown}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        server(opened, hosts).run(sockets=[listening])


def add(store: str, file: str, wanted: int, kind: str) -> None:
    """Asks for judgements of the comparisons of a file, or for writings about its rows."""
    tasks = read_comparisons(file) if kind == COMPARISON else read_assignments(file, kind)
    with made_or_opened(store) as opened, located(file):
        new = opened.add_tasks(tasks, wanted)
    print(f"{new} new tasks, {len(tasks) - new} that were there; {wanted} submissions are wanted to each")


def screen(store: str, known: str) -> None:
    """Gives every labeler the judged comparisons of a file first, by which the overview says whether they agree."""
    judgements = read_judgements(known)
    with made_or_opened(store) as opened, located(known):
        new = opened.add_screening(judgements)
    print(f"{new} new tasks that screen")


def labeler(store: str, name: str, group: str, at: str, renew: bool) -> None:
    """Prints a labeler's link, which nobody can print again."""
    with made_or_opened(store) as opened:
        token = opened.renew_token(name) if renew else opened.add_labeler(name, group)
    print(f"{at}/visit?token={token}")


def owner(store: str, at: str) -> None:
    """Prints the overview's link; an earlier one no longer leads there."""
    with made_or_opened(store) as opened:
        token = opened.renew_owner()
    print(f"{at}/visit?token={token}")


def export(store: str, out: str, what: str) -> None:
    """Writes what there is to a file."""
    with Store(store, create=False) as opened:
        judgements, written = opened.judgements(), opened.written()
    if what == "judgements":
        write_judgements(out, found := judgements)
    elif what == "demonstrations":
        write_demonstrations(out, found := as_demonstrations(written))
    else:
        write_prompts(out, found := as_prompts(written))
    print(f"{len(found)} {what} in {out}")


def made_or_opened(store: str) -> Store:
    """The store; one that was not there is said to be new, for its path may be mistaken."""
    found = Store(store)
    if found.is_new:
        print(f"rlhf-label: {store} is a new store", file=sys.stderr)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rlhf-label", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run, *arguments: str) -> argparse.ArgumentParser:
        found = commands.add_parser(run.__name__, help=run.__doc__.partition(".")[0], description=run.__doc__)
        found.set_defaults(command=run)
        for each in ("store", *arguments):
            found.add_argument(each, metavar=each.upper())
        return found

    page = command(serve)
    page.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1: this machine alone)")
    page.add_argument("--port", type=int, default=8000)
    page.add_argument("--name", action="append", default=[], help="a name by which people reach it, beside localhost")
    asked = command(add, "file")
    asked.add_argument("--wanted", type=int, default=1, help="by how many labelers each is to be done (1)")
    asked.add_argument("--kind", choices=KINDS, default=COMPARISON, help=f"what the file asks for ({COMPARISON})")
    command(screen, "known")
    person = command(labeler, "name")
    person.add_argument("--group", default="")
    person.add_argument(
        "--renew", action="store_true", help="another link for one who is there, in the place of theirs"
    )
    for each in (person, command(owner)):
        each.add_argument("--at", default=AT, help=f"where the page is ({AT})")
    written = command(export, "out")
    written.add_argument("--what", choices=EXPORTS, default=EXPORTS[0], help=f"({EXPORTS[0]})")
    return parser


if __name__ == "__main__":
    main()
