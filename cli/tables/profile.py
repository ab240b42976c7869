"""What `branchynet profile` shows: stages on both nodes, cuts and codecs, what the nodes were found to be."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cli.options import console

if TYPE_CHECKING:
    from branchynet.artifact.manifest import Manifest
    from branchynet.placement.serving_profile import ServingProfile
    from orchestrator.profiling.live_profile import Profiled

__all__ = ["node_figures", "print_cuts", "print_stages", "stage_rows", "words_of"]


def stage_rows(manifest: Manifest, profiled: Profiled) -> list[dict[str, Any]]:
    """A row for each stage on each node that holds it: what it costs, and the quartiles of what it takes alone."""
    rows = []
    for name, node in (("edge", profiled.edge), ("cloud", profiled.cloud)):
        for stage, spreads in enumerate(node.stage_ms, node.stages[0]):
            cost = manifest.cost.stages[stage]
            rows.append(
                {
                    "node": name,
                    "stage": stage,
                    "exit": manifest.cost.exit_of_stage[stage],
                    "macs": cost.trunk_macs + cost.head_macs,
                    "parameters": cost.trunk_params + cost.head_params,
                    "ms": {
                        batch: [spread.low, spread.median, spread.high]
                        for batch, spread in zip(node.batches, spreads, strict=True)
                    },
                }
            )
    return rows


def node_figures(profiled: Profiled) -> dict[str, Any]:
    """What each node said of itself."""
    names = ("engine", "threads", "cores", "rss_bytes", "peak_rss_bytes")
    nodes = {"edge": profiled.edge, "cloud": profiled.cloud}
    return {
        name: {"stages": list(node.stages), **{key: value for key, value in asdict(node).items() if key in names}}
        for name, node in nodes.items()
    }


def print_stages(name: str, profiled: Profiled, rows: list[dict[str, Any]]) -> None:
    """The table of *rows*, as `stage_rows` gives them."""
    table = Table(title=f"{name}, {_engines(profiled)}: median ms of a batch, with its quartiles")
    headings = ("node", "stage", "exit", "M MACs", "parameters", *(f"batch of {batch}" for batch in rows[0]["ms"]))
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "node" else "right")
    for number, row in enumerate(rows):
        table.add_row(
            row["node"],
            str(row["stage"]),
            "" if row["exit"] is None else str(row["exit"]),
            f"{row['macs'] / 1e6:,.3f}",
            f"{row['parameters']:,}",
            *(f"{median:.2f} ({low:.2f} – {high:.2f})" for low, median, high in row["ms"].values()),
            end_section=number + 1 < len(rows) and rows[number + 1]["node"] != row["node"],
        )
    console.print(table)


def print_cuts(manifest: Manifest, profile: ServingProfile) -> None:
    """The table of messages and codecs at each cut."""
    from branchynet.placement.plan import plain_codec

    table = Table(title="one sample's message at each cut; times as between requests")
    for heading in ("cut", "codec", "bytes", "of raw", "encode us", "decode us"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    raw_bytes = profile.message_bytes[0]
    for cut in range(manifest.stages):
        plain = profile.message_bytes[cut]
        table.add_row(str(cut), plain_codec(cut), f"{plain:,}", f"{plain / raw_bytes:.2f}x")
        for cost in (cost for cost in profile.codecs if cost.cut == cut):
            table.add_row(
                "",
                cost.codec,
                f"{cost.message_bytes:,.0f}",
                f"{cost.message_bytes / raw_bytes:.2f}x",
                f"{1e3 * cost.encode_ms:.0f}",
                f"{1e3 * cost.decode_ms:.0f}",
            )
        table.add_section()
    console.print(table)


def words_of(profiled: Profiled) -> str:
    """What the tables do not show."""
    profile, total = profiled.profile, profiled.profile.edge.stages
    text = (
        f"between requests, asked one after the other, stages take {profiled.edge_factor:.2f}x as long at the edge and "
        f"{profiled.cloud_factor:.2f}x in the cloud; the profile has stages and codecs so\n"
        f"beside stages, codecs and link: {profile.request_ms:.2f} ms a request, {profile.offload_ms:.2f} ms an "
        f"offload; framing {profile.framing_bytes} bytes up, replies {profile.reply_bytes} bytes down\n"
        f"memory, now and at most: {_memory(profiled)}"
    )
    if profile.held < total:
        ratio = profile.edge.until_ms[profile.held] / profile.cloud.until_ms[profile.held]
        text += (
            f"\nstages [{profile.held}, {total}) were not timed at the edge, which does not hold them: taken to be as "
            f"much slower there as what it holds, {ratio:.2f}x"
        )
    return text


def _engines(profiled: Profiled) -> str:
    def one(node: Any) -> str:
        threads = "one thread" if node.threads == 1 else f"{node.threads} threads"
        return f"engine {node.engine}, {threads} of {node.cores} cores"

    edge, cloud = one(profiled.edge), one(profiled.cloud)
    return edge if edge == cloud else f"edge: {edge}; cloud: {cloud}"


def _memory(profiled: Profiled) -> str:
    return ", ".join(
        f"{name} process {node.rss_bytes / 2**20:.0f} and {node.peak_rss_bytes / 2**20:.0f} MiB with stages "
        f"[{node.stages[0]}, {node.stages[1]})"
        for name, node in (("edge", profiled.edge), ("cloud", profiled.cloud))
    )
