"""Synthetic images for the model: which source makes them, in how many steps, and where they are kept."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

import onnxdfq
from onnxdfq import images
from onnxdfq.config import Options
from onnxdfq.engine.ort import SERIALIZED_LIMIT, Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.difficulty import doubt, entropy, rank_correlation
from onnxdfq.images.quality import quality
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.schedule import Schedule, within
from onnxdfq.images.source import Batch, Subject
from onnxdfq.images.sources import KINDS, Kind, rung
from onnxdfq.images.store import Store, open_store
from onnxdfq.images.synthesis import synthesize
from onnxdfq.run import Run

EFFORT = 2  # unless the user says otherwise
DIFFICULTY_WANTED = 0.7  # rank correlation of what was meant with what the model makes of it


def make(run: Run, count: int, ranks: Ranks = ALONE) -> Batch | None:
    """``count`` images, fewer only where a time budget is too short; None in all processes but the first.

    Raises OnnxdfqError when the source that was asked for can't work on this model.
    """
    options = run.options
    subject = Subject(run.model, run.into, run.domain, run.guides, given=run.given, aims=options.aims)
    kind, why = _chosen(options, subject)
    if kind.steps:
        from onnxdfq.engine.torch_device import torch_device  # here, so that recipe fast never imports torch

        subject = replace(subject, device=torch_device(options.device))
    store = _store(run, kind, subject)
    schedule = _schedule(options, kind, subject, count, store, ranks)
    if schedule.images < count:
        notice = f"{options.seconds_for_images:g} s are enough for {schedule.images} images of the {count} wanted"
        run.report.notices.append(notice)
    source = kind.build(subject, schedule.steps)
    made = synthesize(source, schedule.images, options.seed, store, ranks, run.progress.step)
    if made is None:
        return None
    early = f", done after {made.steps:.0f} on average" if 0 < made.steps < 0.99 * source.steps else ""
    shards = -(-schedule.images // source.size)
    kept = f"; {made.reused} of {shards} shards from the cache" if made.reused else ""
    shared = f"; shared by {ranks.count} processes" if ranks.count > 1 else ""
    run.report.rung = rung(kind, subject)
    run.report.images = source.about + early + kept + shared + (f" ({why})" if why else "")
    if options.aims.difficult and made.batch.labels is not None and made.batch.labels.ndim == 2:
        _judge_difficulty(run, made.batch.pixels, made.batch.labels)
    return made.batch


def judge(run: Run, pixels: np.ndarray) -> None:
    """Put into the report how good images are for this model."""
    if len(pixels) < run.whole(1):
        run.report.quality_in_words = f"not known: the model takes {run.whole(1)} images at once"
        return
    found = quality(Subject(run.model, run.into, run.domain, run.guides), pixels)
    run.report.quality, run.report.quality_in_words = found.value, found.describe()


def _judge_difficulty(run: Run, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Whether images that were meant to be difficult are: by what the model itself makes of them."""
    session = Session(run.model)
    scores = np.concatenate([next(iter(outputs.values())) for outputs in session.stream(run.batches(pixels))])
    meant = entropy(labels[: len(scores)])
    run.report.difficulty = rank_correlation(meant, doubt(scores.reshape(len(scores), -1)))
    if run.report.difficulty < DIFFICULTY_WANTED:
        run.report.notices.append(
            f"difficult images are not as meant: rank correlation {run.report.difficulty:.2f} with the model's doubt, "
            f"below {DIFFICULTY_WANTED:g}; more steps may help: --effort {min((run.options.effort or EFFORT) + 1, 5)}"
        )


def _chosen(options: Options, subject: Subject) -> tuple[Kind, str]:
    """The source, and why it is not that of the recipe; empty if it is."""
    if options.source is not None:
        kind = KINDS[options.source]
        lacking = kind.lacks(subject)
        if lacking:
            able = [name for name, other in KINDS.items() if not other.lacks(subject)]
            hint = f"choose from {', '.join(able)}" + (", without --images" if options.images is not None else "")
            raise OnnxdfqError(f"--source {kind.name}: {lacking}", hint)
        return kind, ""
    kind = KINDS[options.way.source]
    lacking = kind.lacks(subject)
    return (KINDS["procedural"], lacking) if lacking else (kind, "")


def _schedule(
    options: Options, kind: Kind, subject: Subject, count: int, store: Store | None, ranks: Ranks
) -> Schedule:
    seconds = options.seconds_for_images
    if not kind.steps or seconds is None:
        return Schedule(kind.steps[(options.effort or EFFORT) - 1] if kind.steps else 0, count)
    # A measured choice is no other on the second run, or what the first one made could not be used.
    name = f"schedule-{seconds:g}s-{count}-{ranks.count}"
    decided = store.remembered(name) if store else None
    if decided is None and ranks.rank == 0:
        decided = asdict(within(seconds, kind, subject, count, ranks.count))
        if store:
            store.remember(name, decided)
    return Schedule(**ranks.agreed(decided))


def _store(run: Run, kind: Kind, subject: Subject) -> Store | None:
    """Where images of this kind for this model are kept; None without --cache, or for what is drawn in no time."""
    options = run.options
    if options.cache is None or not kind.steps:
        return None
    settings = {
        "onnxdfq": onnxdfq.__version__,
        "code": _code(),
        "torch": version("torch"),
        "source": kind.name,
        "aims": asdict(options.aims),
        "seed": options.seed,
        "domain": [run.domain.mean, run.domain.std, run.domain.order],
        "shape": run.into.shape(run.into.batch or 0),
        "device": subject.device,
        "given": hashlib.sha256(run.given.tobytes()).hexdigest() if run.given is not None else None,
    }
    arrays = {other.name: other.given for other in run.into.others if other.given is not None}
    settings |= {f"input {name}": hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    if run.original.ByteSize() >= SERIALIZED_LIMIT:
        raise OnnxdfqError("--cache is for models below 2 GB", "leave it out")
    image = (run.into.channels, run.into.height, run.into.width)
    return open_store(options.cache, run.original.SerializeToString(deterministic=True), settings, image)


def _code() -> str:
    """A hash of what makes images: those of another version of it are other images."""
    folder = Path(images.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
