"""What a study derives from its settings."""

from __future__ import annotations

from dataclasses import replace

from rrr_lightning.study.settings import Arm, Headline, Quality, Study, TeacherRuns

STUDY = Study(
    base=("base.yaml",),
    arms={"plain": Arm(), "taught": Arm(durations=(8,))},
    durations=(4, 8),
    seeds=(1,),
    quality=Quality("val/loss", "min"),
    headline=Headline("flops", "free"),
)


def test_the_first_arm_is_the_baseline_and_the_second_the_headline() -> None:
    assert (STUDY.baseline, STUDY.headline_arm) == ("plain", "taught")
    assert (STUDY.durations_of("plain"), STUDY.durations_of("taught")) == ((4, 8), (8,))
    assert not STUDY.demonstration


def test_the_names_of_runs() -> None:
    study = replace(STUDY, teachers={"longer": TeacherRuns(60, (901, 902))})
    assert list(study.run_names()) == [
        "longer-901", "longer-902", "plain-4-1", "plain-8-1", "taught-8-1",
    ]  # fmt: skip
