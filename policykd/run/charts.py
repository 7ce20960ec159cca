"""TensorBoard files with the tags that SB3's users know; nothing of TensorBoard is imported until a point is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policykd.config import DistillConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Charts"]

# The page "Custom Scalars" opens on the first group; each chart shows every series that has the tag.
_LAYOUT = {
    "comparison: student, teacher, random": {
        "return on evaluation episodes": ["Multiline", ["eval/mean_reward"]],
        "return while collecting": ["Multiline", ["rollout/ep_rew_mean"]],
        "retention": ["Multiline", ["eval/retention"]],
    },
    "closeness to the teacher": {
        "agreement": ["Multiline", ["distill/agreement"]],
        "KL(teacher || student)": ["Multiline", ["distill/kl"]],
        "value error": ["Multiline", ["distill/value_error"]],
        "loss": ["Multiline", ["train/loss"]],
    },
}
_FLUSH_SECONDS = 10
_ALWAYS = ("learning_rate", "method", "seed", "steps")  # hparams, at their defaults too


class Charts:
    """Event files of a run: one sub-folder a series, so that the same tag is one chart with a line for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}
        self._references: set[tuple[str, str]] = set()

    def _writer(self, series: str) -> SummaryWriter:
        if series not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(self._folder / series, flush_secs=_FLUSH_SECONDS)
            if series == "student":
                writer.add_custom_scalars(_LAYOUT)
            self._writers[series] = writer
        return self._writers[series]

    def scalars(self, step: int, values: Mapping[str, float | None], series: str) -> None:
        """Points at ``step``; None and NaN are left out."""
        for tag, value in values.items():
            if value is not None and not math.isnan(value):
                self._writer(series).add_scalar(tag, value, step)

    def reference(self, step: int, values: Mapping[str, float], series: str) -> None:
        """Lines at ``values`` that begin at 0 and reach ``step``."""
        fresh = {tag: v for tag, v in values.items() if (series, tag) not in self._references}
        self._references |= {(series, tag) for tag in fresh}
        if step > 0:
            self.scalars(0, fresh, series)
        self.scalars(step, values, series)

    def conclude(self, report: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """The end of a distillation: lines drawn to the last step, the comparison as a text, and hparams."""
        # A dataset's run steps no environment, but its curves count the steps that its updates stand for.
        looks = [look["env_steps"] for look in report.get("history", ())]
        step, mine = max(report["env_steps"], *looks, 0), report["student"]
        for series, retention in (("teacher", 1.0), ("random", 0.0)):
            lines = {tag: report[series]["return_mean"] for tag in ("eval/mean_reward", "rollout/ep_rew_mean")}
            missing = {t: v for t, v in lines.items() if (series, t) not in self._references}
            self.reference(step, {**missing, "eval/retention": retention}, series)
        self._writer("student").add_text("comparison", _comparison(report), step)
        self._hparams(
            {"env_id": report["env_id"], **_telling(config)},
            {
                "final/retention": report["retention"],
                "final/return": mine["return_mean"],
                "final/params": mine.get("params"),
                "final/bytes": mine.get("bytes"),
                "final/agreement": report["agreement"],
            },
            step,
        )

    def _hparams(self, config: Mapping[str, Any], final: Mapping[str, float | None], step: int) -> None:
        from torch.utils.tensorboard.summary import hparams

        known = {k: float(v) for k, v in final.items() if v is not None and math.isfinite(v)}
        # SummaryWriter.add_hparams would open one more sub-run, apart from the curves that it belongs to.
        to_file: Any = self._writer("student").file_writer
        for summary in hparams(dict(config), known):
            to_file.add_summary(summary)
        self.scalars(step, known, "student")

    def close(self) -> None:
        """Write what is buffered and close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _telling(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Numbers and texts that tell runs apart: the page shows few columns, and config.json has them all."""
    usual = asdict(DistillConfig())
    return {
        key: value
        for key, value in config.items()
        if isinstance(value, bool | int | float | str) and (key in _ALWAYS or value != usual.get(key))
    }


def _comparison(report: Mapping[str, Any]) -> str:
    """The three policies as a Markdown table."""
    rows = ["| policy | return | 95 % interval | episodes | parameters |", "|---|---|---|---|---|"]
    for name in ("teacher", "student", "random"):
        it = report[name]
        low, high = it.get("return_ci") or (math.nan, math.nan)
        params = f"{it['params']:,}" if it.get("params") else ""
        rows.append(f"| {name} | {it['return_mean']:.2f} | {low:.2f} to {high:.2f} | {it['episodes']} | {params} |")
    kept, ci = report["retention"], report["retention_ci"]
    said = "n/a" if kept is None else f"{kept:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")
    return "\n".join([*rows, "", f"retention {said} · agreement {report['agreement']:.3f}"])
