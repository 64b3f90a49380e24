"""Trials for TensorBoard's HParams page: a run for each, with its parameters, its reports and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingDependencyError
from tunesmith.trial import Trial, TrialState

_KINDS = (bool, int, float, str)


def write(trials: Sequence[Trial], directions: Sequence[str], path: Path) -> None:
    """Write a folder for `tensorboard --logdir`. Raises MissingDependencyError without the package tensorboard."""
    try:
        from tensorboard.plugins.hparams import summary_v2  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise MissingDependencyError("an export for TensorBoard needs it: pip install tensorboard") from error
    names = ["objective"] if len(directions) == 1 else [f"objective_{k}" for k in range(len(directions))]
    parameters = [summary_v2.HParam(name) for name in sorted({n for t in trials for n in t.params})]
    metrics = [
        summary_v2.Metric(name, display_name=f"{n} ({d})") for name, n, d in zip(names, names, directions, strict=True)
    ]
    _events(path, [(0, summary_v2.hparams_config_pb(parameters, metrics), None)])
    for t in trials:
        params = {n: v if isinstance(v, _KINDS) else str(v) for n, v in t.params.items()}
        last = t.reports[-1].step if t.reports else 0
        events: list[tuple[int, Any, float | None]] = [
            (0, summary_v2.hparams_pb(params, f"trial {t.number}", t.started or 0.0), t.started)
        ]
        events += [(r.step, _scalars(dict(zip(names, r.values, strict=False))), r.time) for r in t.reports]
        if t.values is not None:
            events.append((last + 1, _scalars(dict(zip(names, t.values, strict=True))), t.ended))
        if t.state.finished:
            events.append((last + 1, _end(t), t.ended))
        _events(path / f"trial-{t.number}", events)


def _events(path: Path, summaries: Iterable[tuple[int, Any, float | None]]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415

    writer = EventFileWriter(str(path))
    for step, found, when in summaries:
        writer.add_event(Event(step=step, summary=found, wall_time=when or 0.0))
    writer.close()


def _end(trial: Trial) -> Any:
    """How a run ended, in the message of the plugin's own (which has a function for it, but that needs TensorFlow)."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # noqa: PLC0415

    status = api_pb2.STATUS_FAILURE if trial.state is TrialState.FAILED else api_pb2.STATUS_SUCCESS
    ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=trial.ended or 0.0)
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=ended))
    return Summary(
        value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)]
    )


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
