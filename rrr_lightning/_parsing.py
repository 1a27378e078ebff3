"""The parser of `rrr`: errors in one line with the nearest name; shipped configurations by name."""

from __future__ import annotations

import importlib
import re
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from rrr_lightning.commands import fail
from rrr_lightning.distillation.losses import RowLoss
from rrr_lightning.errors import InputError, check, did_you_mean
from rrr_lightning.files import read_yaml

HELP_COLUMN = 38
SECTIONS = {
    "model": "ImageClassifier, MaskedLanguageModel, TextClassifier, or a class path",
    "data": "ImageDataModule, TextDataModule, GlueDataModule, EmbeddedDigits, or a class path",
}
SHIPPED = Path(__file__).parent / "configs"
# Names that other programs use, by the last part of a key; and what they are called here.
SYNONYMS = {
    "lr": "model.learning_rate",
    "optimizer": "model.optimizer",
    "lr_scheduler": "model.lr_scheduler",
    "arch": "model.network",
    "architecture": "model.network",
    "model_name_or_path": "model.network",
    "batch_size": "data.global_batch_size",
    "path": "data.source",
    "data_dir": "data.source",
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "temperature": "distillation.loss.temperature",
    "alpha": "distillation.schedule.weight",
    "weight": "distillation.schedule.weight",
    "teacher": "distillation.teachers",
    "seed": "seed_everything",
}


def find_config(name: str) -> str:
    """Returns the path of a configuration: a local file, or else one that the package ships."""
    if Path(name).is_file():
        return name
    if (SHIPPED / name).is_file():
        return str(SHIPPED / name)
    shipped = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))
    raise InputError(
        f"neither a file here nor one of the {len(shipped)} shipped configurations"
        + did_you_mean(name, shipped),
        key="--config",
        found=name,
    )


def run_folder(configs: Iterable[Any] | None) -> str:
    """Returns the run folder named after the first configuration: `runs/<its name>`."""
    for config in configs or ():
        path, shipped = Path(str(config)).resolve(), SHIPPED.resolve()
        name = path.relative_to(shipped) if path.is_relative_to(shipped) else Path(path.name)
        return str(Path("runs") / name.with_suffix(""))
    return "runs/default"


class ShippedConfig(ActionConfigFile):
    """`--config FILE`, where FILE may be the name of a shipped configuration."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Applies the configuration over what was parsed before it, once it is known to be one."""
        path = find_config(values)
        check(
            isinstance(read_yaml(path, "--config"), dict),
            "--config",
            path,
            "key: value",
            "is no configuration",
        )
        super().__call__(parser, cfg, path, option_string)  # type: ignore[no-untyped-call]


class OneLineParser(LightningArgumentParser):
    """Reports an error in one line, and gives help with a line for each option.

    jsonargparse's own help names every known subclass of every type, on 2,000 lines; `--help=all`
    prints it. Of all arguments only `--config` names a file of arguments. The value of any other
    one is data: a path under `teachers` or `model.body` is never opened by the parser.
    """

    prints_all_help = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Importing LightningCLI lets the parser read addresses; nothing is fetched here. Naming a
        # denylist also enforces the parser's own: no `os.system` as a callable or a class path.
        set_parsing_settings(
            config_read_mode_fsspec_enabled=False,
            instantiate_subclass_spec_in_any=False,
            import_path_denylist=[],
        )
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def _add_signature_parameter(self, *args: Any, **kwargs: Any) -> None:
        """Adds an argument whose value is never taken for a file of arguments."""
        super()._add_signature_parameter(*args, **{**kwargs, "sub_configs": False})

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Returns the help of a command in short, or of a class in full."""
        is_command = any(action.dest == "trainer.max_steps" for action in self._actions)
        if self.prints_all_help or not is_command:
            return str(super().format_help(*args, **kwargs))
        return "\n".join(_short_help(self)) + "\n"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the line and exits with 2; the parsers of nested classes raise instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        fail(str(input_error(ex) or _one_line(message, self)))


def input_error(error: BaseException | None) -> InputError | None:
    """Returns the `InputError` that an exception is, or that led to it, if any."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def missing_package(error: BaseException | None) -> str | None:
    """Returns the line of a logger or plugin whose package is not installed, if that is it."""
    while error is not None:
        if missing := re.search(r"Requirement '([^']+)' not met", str(error)):
            accepted = f"pip install '{missing[1]}'"
            return f"trainer.logger: a package is missing; found no {missing[1]!r}; {accepted}"
        error = error.__cause__ or error.__context__
    return None


def _one_line(message: str, parser: ArgumentParser) -> str:
    """Shortens a message of the parser, and adds the nearest name to one about an unknown name."""
    # One value of a class's arguments, out of what jsonargparse tells of every type of a Union.
    plain = " ".join(message.split())
    section = re.match(r'Parser key "([^"]+)": ', plain)
    wrong = re.search(
        r"class_path '[^']+': (?:- )?Parser key \"([^\"]+)\": "
        r"Expected an? (?:<class ')?(.+?)(?:'>)?\. Got value: (.+?)(?: - |$)",
        plain,
    )
    if wrong and section:
        return f"{section[1]}.{wrong[1]}: found {wrong[3]}; accepted: {wrong[2]}"
    message = " ".join(message.partition("Given value type:")[0].split())
    key = match[1] if (match := re.match(r'Parser key "([^"]+)": ', message)) else ""
    if match := re.search(r"class_path '([^']+)': Option '([^']+)' is not accepted", message):
        return _unknown(f"{key}.{match[2]}", match[2], _parameters(match[1]))
    if match := re.search(r"class_path '([^']+)': (?:- )?(the following [^-]+)", message):
        return f"{key}: {match[1].rpartition('.')[2]}: {match[2].strip()}"
    if match := re.search(r"Unable to load config ['\"]([^'\"]*)", message):  # without its content
        return f"{key}: is no section of a configuration; found {match[1]!r}"
    if match := re.search(r"dot import path string: (\S+)", message):
        hint = did_you_mean(match[1], _class_names(key))
        return f"{key}: no such class; found {match[1]!r}{hint}"
    if match := re.search(r"(?:unrecognized arguments: --|option ')([\w.\-/]+)", message):
        option = match[1].partition("=")[0]
        return _unknown(option, option, _destinations(parser))
    if match := re.search(r"invalid choice: '([^']+)' \(choose from (.*)\)", message):
        choices = re.findall(r"[\w-]+", match[2])
        return f"no such command; found {match[1]!r}{did_you_mean(match[1], choices)}"
    return re.sub(r'^Parser key "([^"]+)": ', r"\1: ", message)


def _short_help(parser: ArgumentParser) -> Iterator[str]:
    """Lines of help: every option with its default and the first sentence about it."""
    command = parser.prog.split()[-1]
    yield f"usage: rrr {command} --config FILE [--config FILE …] [--SECTION.KEY VALUE …]\n"
    yield "Options override what the files say. `--model.help NAME`, `--data.help NAME` and"
    yield "`--distillation.loss.help NAME` describe a class; `--help=all` prints everything.\n"
    section = ""
    for action in parser._actions:
        options = [each for each in action.option_strings if not each.endswith(("+", ".help"))]
        if not options or action.help in (SUPPRESS, "Path to a configuration file."):
            continue
        if (of := action.dest.partition(".")[0] if "." in action.dest else "") != section:
            section = of
            yield ""
        default = "" if action.default in (None, SUPPRESS) else f" {_short(action.default)}"
        text = SECTIONS.get(action.dest) or _first_sentence(action.help or "")
        head = f"  {', '.join(options)}{default}"
        lines = wrap(text, 100 - HELP_COLUMN, max_lines=2, placeholder=" …") or [""]
        if len(head) > HELP_COLUMN - 2:
            yield head
            head = ""
        yield f"{head:{HELP_COLUMN}}{lines[0]}"
        yield from (f"{'':{HELP_COLUMN}}{line}" for line in lines[1:])


def _first_sentence(text: str) -> str:
    return re.split(r"\.\s|Default:", " ".join(text.replace("``", "").split()))[0].rstrip(".")


def _short(value: object) -> str:
    """A default value on the help's line; objects by their class."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if isinstance(value, str | bool | int | float | list) and len(text) < 30 else "…"


def _unknown(key: str, name: str, known: Iterable[str]) -> str:
    """Names the nearest key by the first part that is wrong: a section, or a key in a section."""
    if synonym := SYNONYMS.get(name.rpartition(".")[2]):
        return f"{key}: no such key; did you mean {synonym!r}?"
    nearest: Iterable[str] = [each for each in known if not each.endswith(".help")]
    parts, depth = name.split("."), 1
    while depth < len(parts) and _starts(nearest, parts[:depth]):
        depth += 1
    begun = {".".join(each.split(".")[:depth]) for each in nearest}
    return f"{key}: no such key{did_you_mean('.'.join(parts[:depth]), begun)}"


def _starts(names: Iterable[str], parts: list[str]) -> bool:
    return any(name.split(".")[: len(parts)] == parts for name in names)


def _destinations(parser: ArgumentParser) -> Iterator[str]:
    """Keys of a parser and of its subcommands."""
    for action in parser._actions:
        yield action.dest
        for subparser in (getattr(action, "_name_parser_map", None) or {}).values():
            yield from _destinations(subparser)


def _parameters(class_path: str) -> list[str]:
    """Names of the arguments that a class takes on the command line."""
    module, _, name = class_path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    keys = parser.add_class_arguments(getattr(importlib.import_module(module), name), "x")
    return [key.removeprefix("x.") for key in keys]


def _class_names(key: str) -> list[str]:
    """Short names of the classes that a section accepts."""
    bases: dict[str, type] = {
        "model": LightningModule,
        "data": LightningDataModule,
        "distillation.loss": RowLoss,
    }
    return [each.__name__ for each in _subclasses(bases[key])] if key in bases else []


def _subclasses(base: type) -> Iterator[type]:
    subclass: type
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
