"""Answers of an edge: a table of them all, or what they come to where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from branchynet.serving.prediction import Prediction, ServedModel
from branchynet.terminal import shown
from cli.options import console

__all__ = ["answers_json", "print_answers"]

# More rows than that nobody reads.
MOST_ROWS = 50


def print_answers(
    served: ServedModel, answers: Sequence[Prediction], names: Sequence[str], expected: Sequence[str | None]
) -> None:
    """Print what *served* said of the images *names*; *expected*: the class of each, None where it is not known."""
    title = f"{shown(served.model)} ({served.content_hash[:12]})"
    if len(answers) > MOST_ROWS:
        _print_summary(served, answers, expected, title)
        console.print("each answer: --json FILE")
    else:
        _print_all(served, answers, names, title)
    if known := [(answer, word) for answer, word in zip(answers, expected, strict=True) if word is not None]:
        right = sum(served.labels[answer.label] == word for answer, word in known)
        console.print(f"accuracy: {100 * right / len(known):.2f} % of {len(known):,} images with a known class")
    if reasons := {answer.fallback_reason for answer in answers if answer.fallback_reason}:
        console.print("the edge answered where the cloud did not: " + "; ".join(sorted(map(shown, reasons))))


def _print_all(served: ServedModel, answers: Sequence[Prediction], names: Sequence[str], title: str) -> None:
    table = Table(title=title)
    for column in ("image", "label", "probability", "exit", "where", "edge ms", "network ms", "cloud ms", "bytes up"):
        table.add_column(column, justify="left" if column in ("image", "label", "where") else "right")
    for name, answer in zip(names, answers, strict=True):
        table.add_row(
            shown(name),
            shown(served.labels[answer.label]),
            f"{answer.probability:.3f}",
            str(answer.exit),
            answer.place.value,
            f"{answer.edge_ms:.2f}",
            f"{answer.network_ms:.2f}",
            f"{answer.cloud_ms:.2f}",
            str(answer.uplink_bytes),
        )
    console.print(table)


def _print_summary(
    served: ServedModel, answers: Sequence[Prediction], expected: Sequence[str | None], title: str
) -> None:
    """A row for each way an image was answered, and one for each class."""
    ways = Table(title=f"{title}: {len(answers):,} images")
    for column in ("exit", "where", "images", "share %", "right %", "mean bytes up"):
        ways.add_column(column, justify="left" if column == "where" else "right")
    for way in sorted({(answer.exit, answer.place.value) for answer in answers}):
        those = [number for number, answer in enumerate(answers) if (answer.exit, answer.place.value) == way]
        sent = sum(answers[number].uplink_bytes for number in those) / len(those)
        share, right = 100 * len(those) / len(answers), _right(served, answers, expected, those)
        ways.add_row(str(way[0]), way[1], f"{len(those):,}", f"{share:.1f}", right, f"{sent:,.0f}")
    console.print(ways)
    classes = Table()
    for column in ("class", "answers", "images of it", "of these right %"):
        classes.add_column(column, justify="left" if column == "class" else "right")
    for index, label in enumerate(served.labels):
        given = sum(answer.label == index for answer in answers)
        those = [number for number, word in enumerate(expected) if word == label]
        if given or those:
            classes.add_row(
                shown(label), f"{given:,}", f"{len(those):,}" if those else "", _right(served, answers, expected, those)
            )
    console.print(classes)


def _right(
    served: ServedModel, answers: Sequence[Prediction], expected: Sequence[str | None], numbers: Sequence[int]
) -> str:
    """How many percent of those images whose class is known were answered rightly; nothing if there are none."""
    known = [number for number in numbers if expected[number] is not None]
    right = sum(served.labels[answers[number].label] == expected[number] for number in known)
    return f"{100 * right / len(known):.1f}" if known else ""


def answers_json(
    served: ServedModel, answers: Sequence[Prediction], names: Sequence[str], expected: Sequence[str | None]
) -> list[dict[str, Any]]:
    """The same for programs; `true_class` where it is known."""
    return [
        {
            "image": name,
            "label": answer.label,
            "class": served.labels[answer.label],
            **({} if word is None else {"true_class": word}),
            "probabilities": [round(float(value), 6) for value in answer.probabilities],
            "exit": answer.exit,
            "where": answer.place.value,
            "edge_ms": answer.edge_ms,
            "network_ms": answer.network_ms,
            "cloud_ms": answer.cloud_ms,
            "uplink_bytes": answer.uplink_bytes,
            "fallback_reason": answer.fallback_reason,
        }
        for name, answer, word in zip(names, answers, expected, strict=True)
    ]
