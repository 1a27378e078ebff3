"""The command line `rrr`: Lightning's, with a `distillation:` section and firm run folders.

    rrr fit --config quickstart/distill.yaml --distillation.teachers teacher.ckpt

A run writes `checkpoints/last.ckpt`, `config.yaml`, `metrics.csv` and `ledger.json`, what it cost,
under `trainer.default_root_dir`, which is named after the configuration by default, as in
`runs/quickstart/distill`. Everything that can be known to be wrong is checked before that folder
is made; a wrong input ends with one line on the standard error stream and exit code 2.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from rrr_lightning import _parsing
from rrr_lightning.callbacks.cost_ledger import CostLedger
from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.callbacks.resume_checks import check_teachers_are_over
from rrr_lightning.checkpointing import (
    TERMINATED,
    AtomicCheckpointIO,
    RunCheckpoint,
    RunFolder,
    check_checkpoint,
    find_checkpoint,
)
from rrr_lightning.commands import INTERRUPTED, WRONG_INPUT, fail, is_refused_elsewhere
from rrr_lightning.data import embedded, glue, images, text  # noqa: F401 - for short class names
from rrr_lightning.errors import InputError, check
from rrr_lightning.metrics_file import MetricsFile
from rrr_lightning.models import (  # noqa: F401 - for short class names
    image_classifier,
    masked_lm,
    text_classifier,
)
from rrr_lightning.models.student import StudentModule
from rrr_lightning.predictions import PredictionsFile

logger = logging.getLogger(__name__)
_stores: list[Any] = []  # of process groups that have ended; held to the end of the process


class RRRCLI(LightningCLI):
    """LightningCLI whose `distillation:` section adds the callback where it names teachers."""

    def __init__(self) -> None:
        super().__init__(
            save_config_callback=None,
            trainer_defaults={"max_epochs": -1},
            seed_everything_default=17,
            parser_class=_parsing.OneLineParser,
            auto_configure_optimizers=False,
        )

    # ------------------------------------------------------------------------------ parsing

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Makes a parser that finds shipped configurations by name."""
        parser = self.parser_class(prog="rrr", **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=_parsing.ShippedConfig,
            help="A YAML file, or the name of a shipped one; later ones override earlier ones.",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections `distillation`, `checkpoint` and `cost`, and the switch `ledger`."""
        parser.add_lightning_class_args(DistillationCallback, "distillation")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(CostLedger, "cost")
        parser.add_argument(
            "--ledger",
            type=bool,
            default=True,
            help="Whether to measure what a training run costs, and to keep ledger.json.",
        )

    def _parse_ckpt_path(self) -> None:
        """Leaves the command line alone: Lightning would put the checkpoint's values over it."""

    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        self.parser.add_instantiator(self._make_distillation, DistillationCallback)

    def _make_distillation(
        self, class_type: type[DistillationCallback], *args: Any, **kwargs: Any
    ) -> DistillationCallback | None:
        """Makes the callback, for training runs with teachers or their targets."""
        kwargs.pop("applied_instantiation_links", None)
        taught = kwargs.get("teachers") or kwargs.get("targets")
        off = self.subcommand != "fit" or not taught
        return None if off else class_type(*args, **kwargs)

    # ------------------------------------------------------------------------------ checks

    def _set_seed(self) -> None:
        check_seed(self.config[self.subcommand].get("seed_everything"))
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Names the run folder, and refuses what the configuration alone shows to be wrong."""
        config = self.config[self.subcommand]
        check_trainer(config)
        if config["trainer"]["default_root_dir"] is None:
            config["trainer"]["default_root_dir"] = _parsing.run_folder(config.get("config"))
        if self.subcommand != "fit":
            # Teachers have no part in judging a checkpoint, so their callback is not missed.
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks")
            return
        if config["trainer"]["max_steps"] < 1:
            raise InputError(
                "the number of optimizer steps must be set",
                key="trainer.max_steps",
                found=config["trainer"]["max_steps"],
                accepted="a whole number from 1",
            )
        section = config["distillation"]
        if section["teachers"] or section["targets"]:
            return
        default = self._parser("fit").get_defaults()["distillation"]
        for key in sorted(section.keys()):
            if key != "teachers" and section[key] != default.get(key):
                raise InputError(
                    "there are no teachers to use it with",
                    key=f"distillation.{key}".partition(".class_path")[0],
                    found=section[key],
                    accepted="distillation.teachers as well, or no other key of the section",
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer once checkpoint and teachers have been checked."""
        config = self.config_init[self.subcommand]
        trainer = config["trainer"].as_dict()
        folder = trainer["default_root_dir"]
        resumes = config["ckpt_path"] == "last"
        checkpoint = find_checkpoint(folder, config["ckpt_path"], self.subcommand == "fit")
        config["weights_only"] = config["weights_only"] is not False
        config["ckpt_path"] = None if checkpoint is None else str(checkpoint)
        stored = {} if checkpoint is None else check_checkpoint(checkpoint, self.model)
        if checkpoint is None and self.subcommand != "fit":
            check_is_trained(self.model, str(self.subcommand))
        if self.subcommand == "fit" and config["distillation"] is None:
            check_teachers_are_over(stored, trainer["max_steps"])
            warnings.filterwarnings("ignore", r"Be aware that when .*: \['DistillationCallback'\]")
        callbacks: list[Callback] = []
        if self.subcommand == "fit" and not trainer["fast_dev_run"]:
            callbacks.append(RunFolder(folder, self._run_config))
        if self._keeps_ledger(config, trainer["callbacks"]):
            config["cost"].begin(resumes=resumes)
            callbacks.append(config["cost"])
        if config["distillation"] is not None:
            config["distillation"].load(self.model)
            callbacks.append(config["distillation"])
        if trainer["enable_checkpointing"] is not False:
            config["checkpoint"].stops_on_interrupt = True
            callbacks.append(config["checkpoint"])
        if self.subcommand == "predict" and _is_of_images(self.model, self.datamodule):
            config["return_predictions"] = False
            callbacks.append(PredictionsFile(folder))
        elif self.subcommand == "predict":
            logger.warning(
                "no file is written: predictions.csv is for an ImageClassifier with image data; "
                "Trainer.predict in Python returns the predictions of other modules"
            )
        if trainer["logger"] is not False:
            given = trainer["logger"] if trainer["logger"] not in (None, True) else []
            # Only training goes back over steps that an earlier process has logged.
            step = stored.get("global_step", 0) if self.subcommand == "fit" else sys.maxsize
            loggers = given if isinstance(given, list) else [given]
            trainer["logger"] = [*loggers, MetricsFile(folder, step)]
        plugins = trainer["plugins"] or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        try:
            return self._instantiate_trainer({**trainer, "plugins": plugins, **kwargs}, callbacks)
        except (TypeError, ValueError) as error:
            raise InputError(f"no trainer can be made: {error}", key="trainer") from error

    def _run_config(self) -> str:
        """Returns the configuration of the run as YAML, for `config.yaml` in its folder."""
        parser = self._parser(self.subcommand)
        return str(parser.dump(self.config[self.subcommand]))

    def _keeps_ledger(self, config: Any, given: list[Callback] | Callback | None) -> bool:
        """Whether to add a ledger: to training runs, unless it is off or there is one already."""
        if self.subcommand != "fit":
            return False
        if not config["ledger"]:
            warnings.filterwarnings("ignore", r"Be aware that when .*: \['CostLedger'\]")
        callbacks = given if isinstance(given, list) else [given]
        return config["ledger"] and not any(isinstance(each, CostLedger) for each in callbacks)


# What Lightning accepts of these keys and no run can use, or what ends in a traceback.
TRAINER_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("val_check_interval", "limit_train_batches"),
        (
            lambda value: (
                not isinstance(value, int | float)
                or (value >= 1 if isinstance(value, int) else 0 < value <= 1)
            ),
            "a whole number from 1, or a fraction in (0, 1]",
        ),
    ),
    **dict.fromkeys(
        ("limit_val_batches", "limit_test_batches", "limit_predict_batches"),
        (
            lambda value: value >= 0 if isinstance(value, int) else 0 <= value <= 1,
            "a whole number from 0, or a fraction in [0, 1]",
        ),
    ),
    **dict.fromkeys(
        ("accumulate_grad_batches", "check_val_every_n_epoch", "num_nodes"),
        (lambda value: value >= 1, "a whole number from 1"),
    ),
    "log_every_n_steps": (lambda value: value >= 0, "a whole number from 0"),
    "num_sanity_val_steps": (lambda value: value >= -1, "a whole number from 0, or -1 for all"),
    "max_epochs": (lambda value: value >= -1, "a whole number from 0, or -1 for no limit"),
    "gradient_clip_val": (lambda value: 0 <= value < float("inf"), "a finite number from 0"),
}


def check_seed(seed: int | bool | None) -> None:
    """Refuses a seed that the generators cannot take."""
    good = seed is None or isinstance(seed, bool) or 0 <= seed < 2**32
    check(good, "seed_everything", seed, "a whole number in [0, 2**32)")


def check_trainer(config: Any) -> None:
    """Refuses a number of the trainer that is out of range."""
    trainer = config.get("trainer")
    check(hasattr(trainer, "keys"), "trainer", trainer or "null", "key: value", "is no section")
    for name, (is_good, accepted) in TRAINER_RANGES.items():
        value = trainer.get(name)
        check(value is None or is_good(value), f"trainer.{name}", value, accepted)
    precise = trainer.get("devices")
    check(precise not in (0, "0", []), "trainer.devices", precise, "auto, or a number from 1")


def check_is_trained(model: LightningModule, command: str) -> None:
    """Refuses to judge random weights; of a foreign module the log says whose weights they are."""
    if not isinstance(model, StudentModule):
        logger.warning("no --ckpt_path: the weights are those that the model is made with")
    elif not model.starts_trained:
        raise InputError(
            f"{command} needs trained weights, those of the new model are random",
            key="ckpt_path",
            accepted="--ckpt_path last, or the path of a checkpoint",
        )


def _is_of_images(model: LightningModule, data: object) -> bool:
    image_data = isinstance(data, images.ImageDataModule)
    return image_data and isinstance(model, image_classifier.ImageClassifier)


def main(run: Callable[[], object] = RRRCLI) -> None:
    """Runs `rrr`, or another command that reads its arguments as `rrr fit` does."""
    try:
        _run_or_refuse(run)
    except SystemExit:
        _leave_group()
        raise
    _leave_group()


def _run_or_refuse(run: Callable[[], object]) -> None:
    _parsing.OneLineParser.prints_all_help = "--help=all" in sys.argv
    sys.argv = ["--help" if each == "--help=all" else each for each in sys.argv]
    try:
        with _quiet():
            run()
    except SIGTERMException as error:  # without a code it would end with 0, as if all were done
        sys.exit(error.code or TERMINATED)
    except SystemExit as error:
        # Lightning ends with 1 after a Ctrl-C that came before the first step.
        sys.exit(INTERRUPTED if isinstance(error.__context__, KeyboardInterrupt) else error.code)
    except MisconfigurationException as error:
        fail(str(error))
    except Exception as error:
        # jsonargparse wraps what a constructor raises into an error of its own.
        known = _parsing.input_error(error)
        if known is not None:
            fail(str(known))
        if missing := _parsing.missing_package(error):
            fail(missing)
        if is_refused_elsewhere():
            sys.exit(WRONG_INPUT)
        raise


def _leave_group() -> None:
    """Ends the ranks' process group, and its threads, while the interpreter still runs.

    A thread of gloo that lets go of its last tensor during interpreter shutdown aborts the process
    (https://github.com/pytorch/pytorch/pull/179291), which makes a good run a failed one.
    Lightning 2.6 ends the group for nccl alone. The store of the group stays to the end of the
    process: it tells other ranks who has refused.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    _stores.append(distributed.distributed_c10d._get_default_store())
    try:
        distributed.destroy_process_group()
    except RuntimeError as error:  # what the run has come to is decided already
        logger.warning("the process group cannot be ended: %s", error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from the screen what is no user's concern."""
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    with warnings.catch_warnings():
        # Names that jsonargparse 4.49 and torch 2.15 have replaced, and Lightning 2.6 still uses.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")
        yield


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()
