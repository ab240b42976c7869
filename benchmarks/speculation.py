"""Would it pay to upload the map of an early cut while the next local exit computes, and to stop when that is sure?

    branchynet profile alexnet-cifar10 --out profile.json
    python benchmarks/speculation.py profile.json [--stage-ms 2.3,2.2,2.1 --beside-ms 1.5] [--codec fp32] [--json FILE]

One edge with a compute thread, an uplink and a cloud, each first come first served; requests arrive at random, and each
leaves where a test image of the artifact leaves. Times and bytes are the profile's. On a busy machine the lower
quartiles that `branchynet profile` prints say more: `--stage-ms` takes them, and `--beside-ms` what a request and an
offload take beside. Three ways to serve the same requests:

- `late cut`: run both exits, then upload what is left at the late cut;
- `early cut`: run the first exit, upload what is left at the early cut, exit 1 is the cloud's;
- `speculate`: upload at the early cut *while* exit 1 computes here. If it is sure, it answers, and what has not been
  sent yet is not sent; if not, the cloud goes on from the early cut.

Cancelling is made better than it can be: it takes effect at once, at no cost, and the network stack holds nothing.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.profile_file import read_profile
from branchynet.data.datasets import load
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.placement.plan import plain_codec
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes

Floats = NDArray[np.float64]

EARLY, LATE = 1, 2
WAYS = ("late cut", "early cut", "speculate")
LINKS = (Link(1.0, rtt_ms=80.0), Link(5.0, rtt_ms=40.0), Link(20.0, rtt_ms=20.0), Link(100.0, rtt_ms=10.0))
SLOWDOWNS = (1.0, 10.0, 50.0)
REQUESTS = 20_000
# Of the edge's thread and of the uplink, whichever is busier, when the late cut serves: enough to queue now and then.
LOAD = 0.3


@dataclass
class Served:
    """Latency of each request, bytes that it put on the uplink, and how many of them were for nothing: float64 [N]."""

    latency_ms: Floats
    sent: Floats
    wasted: Floats


class Queue:
    """Serves in the order of the calls, one at a time."""

    def __init__(self) -> None:
        self._free_ms = 0.0

    def serve(self, ready_ms: float, takes_ms: float, until_ms: float = np.inf) -> tuple[float, float]:
        """When it begins and ends; it is given up at *until_ms*."""
        begin = max(ready_ms, self._free_ms)
        end = min(begin + takes_ms, max(until_ms, begin))
        self._free_ms = end
        return begin, end


def serve(
    way: str, profile: ServingProfile, codec: str, link: Link, arrivals: Floats, exits: NDArray[np.int64]
) -> Served:
    """What becomes of requests at *arrivals*, ms, which leave at *exits*, when they are served in this *way*."""
    thread, uplink, cloud = Queue(), Queue(), Queue()
    stage_ms = [profile.edge.until_ms[i + 1] - profile.edge.until_ms[i] for i in range(3)]
    early, late = (cost_of(profile, cut, codec) for cut in (EARLY, LATE))
    served = Served(*(np.zeros(len(exits)) for _ in range(3)))
    here = 1 if way == "early cut" else 2
    for row, (arrived, left_at) in enumerate(zip(arrivals, exits, strict=True)):
        coded = late if way == "late cut" else early
        first_ms = profile.request_ms + stage_ms[0]
        coding_ms = profile.offload_ms + coded.encode_ms
        if left_at == 0:
            end = thread.serve(arrived, first_ms)[1]
        elif way == "speculate":
            uploadable = thread.serve(arrived, first_ms + coding_ms)[1]
            sure = thread.serve(uploadable, stage_ms[1])[1]
            up_ms = link_ms(coded, profile, link)
            begin, sent = uplink.serve(uploadable, up_ms, sure if left_at == 1 else np.inf)
            served.sent[row] = (sent - begin) / up_ms * (coded.message_bytes + profile.framing_bytes)
            served.wasted[row] = served.sent[row] if left_at == 1 else 0.0
            end = sure if left_at == 1 else answered(cloud, profile, coded, link, sent, left_at)
        elif left_at < here:
            end = thread.serve(arrived, first_ms + stage_ms[1])[1]
        else:
            ready = thread.serve(arrived, first_ms + stage_ms[1] * (here == 2) + coding_ms)[1]
            sent = uplink.serve(ready, link_ms(coded, profile, link))[1]
            served.sent[row] = coded.message_bytes + profile.framing_bytes
            end = answered(cloud, profile, coded, link, sent, left_at)
        served.latency_ms[row] = end - arrived
    return served


def answered(cloud: Queue, profile: ServingProfile, coded: CodecCost, link: Link, sent: float, left_at: int) -> float:
    """When the answer to a message that was sent by *sent* is back."""
    work_ms = coded.decode_ms + profile.cloud.until_ms[left_at + 1] - profile.cloud.until_ms[coded.cut]
    return cloud.serve(sent + link.rtt_ms / 2, float(work_ms))[1] + link.rtt_ms / 2


def cost_of(profile: ServingProfile, cut: int, codec: str) -> CodecCost:
    """What *codec* costs at *cut*."""
    if codec == plain_codec(cut):
        return CodecCost(cut, codec, profile.message_bytes[cut], 0.0, 0.0)
    return next(cost for cost in profile.codecs if (cost.cut, cost.codec) == (cut, codec))


def link_ms(coded: CodecCost, profile: ServingProfile, link: Link) -> float:
    """What one message keeps the uplink busy."""
    return 8e-3 * (coded.message_bytes + profile.framing_bytes) / link.uplink_mbps


def study(profile: ServingProfile, codec: str, exits: NDArray[np.int64], link: Link, slowdown: float) -> dict[str, Any]:
    """All ways on one link and edge: percentiles, bytes, and what speculation gains over the better of the others."""
    slower = profile.slower(edge=slowdown)
    random = np.random.default_rng(0)
    drawn = random.choice(exits, REQUESTS)
    thread_ms = (
        slower.request_ms
        + slower.edge.until_ms[1]
        + (drawn > 0).mean() * (slower.edge.until_ms[2] - slower.edge.until_ms[1] + slower.offload_ms)
    )
    busy_ms = max(thread_ms, (drawn > 1).mean() * link_ms(cost_of(slower, LATE, codec), slower, link))
    arrivals = np.cumsum(random.exponential(busy_ms / LOAD, REQUESTS))
    found: dict[str, Any] = {"uplink_mbps": link.uplink_mbps, "rtt_ms": link.rtt_ms, "edge_slowdown": slowdown}
    for way in WAYS:
        served = serve(way, slower, codec, link, arrivals, drawn)
        found[way] = {
            "p50_ms": float(np.quantile(served.latency_ms, 0.5)),
            "p95_ms": float(np.quantile(served.latency_ms, 0.95)),
            "mean_ms": float(served.latency_ms.mean()),
            "bytes": float(served.sent.mean()),
            "wasted": float(served.wasted.mean()),
        }
    for figure in ("p95_ms", "mean_ms"):
        found[f"gain_{figure}"] = min(found[way][figure] for way in WAYS[:2]) / found["speculate"][figure]
    return found


def main(
    profile: Annotated[Path, typer.Argument(help="JSON of `branchynet profile`.", exists=True)],
    artifact: Annotated[str, typer.Option(help="With two exits before the late cut.")] = "alexnet-cifar10",
    codec: Annotated[str, typer.Option(help="How maps are sent.")] = "uint8+zstd",
    stage_ms: Annotated[str | None, typer.Option(help="In place of the profile's, for edge and cloud.")] = None,
    beside_ms: Annotated[float | None, typer.Option(help="Of a request, and of an offload, in place of both.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the data sets.", envvar="BRANCHYNET_DATA")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Figures for programs.")] = None,
) -> None:
    """Print, for each link and edge, what the three ways take and send."""
    opened = Artifact.open(artifact)
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    exits = measure_outcomes(network, manifest.cost, load(manifest.dataset, "test", data)).exit_of(manifest.rule)
    measured = read_profile(profile)
    if stage_ms is not None:
        times = StageTimes((1,), tuple((float(part),) for part in stage_ms.split(",")))
        measured = replace(measured, edge=times, cloud=times)
    if beside_ms is not None:
        measured = replace(measured, request_ms=beside_ms, offload_ms=beside_ms)
    rows = [study(measured, codec, exits, link, slow) for slow, link in itertools.product(SLOWDOWNS, LINKS)]
    table = Table(title=f"{artifact}, {codec}: {REQUESTS:,} requests, p95 ms (bytes up per request)")
    for heading in ("edge", "Mbit/s, rtt ms", *WAYS, "wasted", "p95 gain", "mean gain"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row['edge_slowdown']:g}x",
            f"{row['uplink_mbps']:g}, {row['rtt_ms']:g}",
            *(f"{row[way]['p95_ms']:.1f} ({row[way]['bytes']:,.0f})" for way in WAYS),
            f"{row['speculate']['wasted']:,.0f}",
            f"{row['gain_p95_ms']:.2f}x",
            f"{row['gain_mean_ms']:.2f}x",
        )
    Console(width=130).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"artifact": artifact, "codec": codec, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
