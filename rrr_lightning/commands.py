"""The commands of `rrr` in one table, and what all of them share: a parser and an error line.

    rrr                   lists the commands
    rrr COMMAND --help    lists the options of one

This module loads nothing but the standard library, so that help, the version and wrong options
answer at once; a command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rrr_lightning import __version__
from rrr_lightning.errors import InputError, did_you_mean

# Exit codes; docs/reference.md says what each one means.
INCOMPLETE, WRONG_INPUT, INTERRUPTED = 1, 2, 130
REFUSED = "rrr_lightning/refused"  # key in the store of the ranks' process group
DEVICES = "auto, cpu, cpu:4, gpu, gpu:0,2, slurm or slurm:16"
STUDY_ACTIONS = {
    "plan": "print the runs, their order and the predicted device-hours",
    "run": "run what has not finished, then report",
    "report": "report on what has finished",
    "advise": "time a few steps on this machine and estimate what distillation costs and must save",
}


class Command(NamedTuple):
    """One command: its line in the list of commands, and the function that runs its arguments."""

    summary: str
    run: Callable[[Sequence[str]], None]


def main() -> None:
    """Runs `rrr`: finds the command, and turns bad input into one line and exit code 2."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(_overview())
    elif name == "--version":
        sys.stdout.write(f"rrr_lightning {__version__}\n")
    elif name in COMMANDS:
        run(lambda: COMMANDS[name].run(arguments))
    else:
        fail(
            f"no such command; found {name!r}{did_you_mean(name, COMMANDS)}; "
            f"accepted: {', '.join(COMMANDS)}"
        )


def run(command: Callable[[], None]) -> None:
    """Runs a command; what a user can cause ends with one line instead of a traceback."""
    try:
        command()
    except InputError as error:
        fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command resumes from here\n")
        sys.exit(INTERRUPTED)


def fail(line: str) -> NoReturn:
    """Prints one line, on one rank, and exits with 2 on every rank."""
    if _is_first_to_refuse():
        sys.stderr.write(f"rrr: error: {' '.join(line.split())}\n")
        sys.stderr.flush()
    sys.exit(WRONG_INPUT)


def is_refused_elsewhere() -> bool:
    """Whether another rank has printed its line and exited, which has ended this one too."""
    store = _store()
    if store is None:
        return False
    try:
        return bool(store.add(REFUSED, 0) > 0)
    except RuntimeError:  # the store went with rank 0, which has printed the line
        return True


def _is_first_to_refuse() -> bool:
    """Whether this rank prints; some errors occur on one rank alone, and not always on rank 0."""
    store = _store()
    if store is None:
        # Lightning sets the rank when it is imported; without it there is one process.
        rank_zero = sys.modules.get("lightning_utilities.core.rank_zero")
        return getattr(getattr(rank_zero, "rank_zero_only", None), "rank", 0) in (0, None)
    try:
        return bool(store.add(REFUSED, 1) == 1)
    except RuntimeError:
        return False


def _store() -> Any:
    """The store of the ranks' process group, None where there is one process."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.distributed_c10d._get_default_store()


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, with the nearest option; abbreviated options are refused."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Prints the line and exits with 2."""
        what, _, names = message.partition("unrecognized arguments: ")
        if names and not what:
            name = names.split()[0].partition("=")[0]
            message = f"{name}: no such option{did_you_mean(name, set(self._options()))}"
        fail(message)

    def _options(self) -> Iterator[str]:
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._options()


def _overview() -> str:
    lines = [f"  {name:10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rrr COMMAND [options]",
            "",
            "Trains students with teachers, and measures what that saves.",
            "",
            "commands:",
            *lines,
            "",
            "`rrr COMMAND --help` lists the options of one; `rrr --version` prints the version.",
            "",
        ]
    )


def _lightning(_: Sequence[str]) -> None:
    importlib.import_module("rrr_lightning.cli").main()  # reads sys.argv


def _export(arguments: Sequence[str]) -> None:
    parser = Parser("rrr export", description="Writes a trained student as a folder.")
    parser.add_argument("--checkpoint", required=True, help="a checkpoint of this library")
    parser.add_argument("--to", required=True, help="the folder; new, or empty")
    args = parser.parse_args(arguments)
    from rrr_lightning.export import export_checkpoint

    print(f"exported to {export_checkpoint(args.checkpoint, args.to)}")


def _glue(arguments: Sequence[str]) -> None:
    parser = Parser(
        "rrr glue",
        description="Fine-tunes a checkpoint on GLUE by a protocol and reports the scores.",
        epilog="Run again, it resumes; finished work is not repeated.",
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="a checkpoint, a Hugging Face folder or a hub id")
    add("--data", default="nyu-mll/glue", help="a folder with the tasks' files, or a hub id")
    add("--out", required=True, help="the output folder; finished jobs in it are kept")
    add("--tasks", default="all", help="all, or names such as cola,rte or all,wnli")
    add("--protocol", default="published", help="published, quick or single")
    add("--settings", help="a YAML file with cells of the protocol to replace, by task")
    add("--seeds", help="seeds for every task, such as 19,717")
    add("--micro_batch_size", type=int, help="samples per forward pass, where memory is short")
    add("--devices", default="auto", help=DEVICES)
    add("--slurm", help="parameters of the cluster, such as gpus_per_node=1,cpus_per_task=4")
    add("--submission", help="a zip file for predictions of the test splits")
    add("--compare", help="the output folder of another checkpoint to compare with")
    args = vars(parser.parse_args(arguments))
    seeds = _numbers(args.pop("seeds"), "--seeds")
    compare_with, slurm = args.pop("compare"), args.pop("slurm")
    from rrr_lightning.glue.run import evaluate
    from rrr_lightning.jobs.places import slurm_parameters

    outcome = evaluate(
        **args, seeds=seeds, slurm=slurm_parameters(slurm), compare_with=compare_with
    )[1]
    if not outcome.complete:
        sys.exit(INCOMPLETE)


def _study(arguments: Sequence[str]) -> None:
    parser = Parser(
        "rrr study",
        description="Compares ways to train by what quality they reach at what cost.",
        epilog="Run again, `run` resumes; finished runs are not repeated.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(STUDY_ACTIONS))
    for action, summary in STUDY_ACTIONS.items():
        add = actions.add_parser(action, help=summary, description=summary).add_argument
        add("file", metavar="FILE", help="a study file, or a shipped one: study/quickstart.yaml")
        add("--out", required=True, help="the output folder; finished runs in it are kept")
        add("--data", help="where the data are, over data.source of the configurations")
        add("--quality_data", help="data for the command that evaluates the runs")
        add("--devices", default="auto", help=DEVICES)
        add("--slurm", help="parameters of the cluster, such as gpus_per_node=1")
        if action == "plan":
            add("--untimed", action="store_true", help="list the runs without timing any step")
    args = parser.parse_args(arguments)
    from rrr_lightning.study.run import act

    if not act(args):
        sys.exit(INCOMPLETE)


def _targets(arguments: Sequence[str]) -> None:
    parser = Parser(
        "rrr targets",
        description="Writes the teachers' outputs for a coming run, so that it needs no teacher.",
        epilog="All options of `rrr fit` are accepted as well, such as --config.",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the targets")
    parser.add_argument("--kind", choices=("dense", "top_k", "sampled"), help="what is stored")
    parser.add_argument("--classes", type=int, help="how many classes are stored per sample")
    args, options_of_fit = parser.parse_known_args(arguments)
    from rrr_lightning.targets.command import write

    write(args.out.expanduser(), args.kind, args.classes, options_of_fit)


def _numbers(text: str | None, key: str) -> list[int] | None:
    try:
        return None if text is None else [int(each) for each in text.split(",")]
    except ValueError:
        raise InputError("not numbers", key=key, found=text, accepted="such as 19,717") from None


COMMANDS = {
    "fit": Command("train a student, with or without teachers", _lightning),
    "validate": Command("evaluate a checkpoint on the validation split", _lightning),
    "test": Command("evaluate a checkpoint on the test split", _lightning),
    "predict": Command("write the predictions of a checkpoint", _lightning),
    "export": Command("write a trained student as a folder that others can load", _export),
    "glue": Command("fine-tune a checkpoint on GLUE and report the scores", _glue),
    "study": Command("compare ways to train by quality and cost", _study),
    "targets": Command("write the teachers' outputs for a run in advance", _targets),
}
