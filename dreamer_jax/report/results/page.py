"""Write index.html: one file that needs no network and no other file."""

import base64
import html
import string
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from dreamer_jax import __version__
from dreamer_jax.files import replacing
from dreamer_jax.report.results.accept import Verdict
from dreamer_jax.report.results.figures import MAX_DIAGNOSED, PANELS, Picture
from dreamer_jax.report.results.runs import Problems, Run
from dreamer_jax.report.results.tables import Table
from dreamer_jax.report.video import open_loop_videos

MAX_VIDEOS = 8  # in the page
MAX_VIDEO_BYTES = 24 * 2**20  # of all videos in the page
BAD, TEXT = ' class="bad"', ' class="text"'
MAX_PROBLEMS = 200  # in the page; all are in results.json


class Section(NamedTuple):
    title: str
    content: str  # HTML


def write_page(
    runs: Sequence[Run],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    verdicts: Sequence[Verdict],
    problems: Problems,
    path: Path,
) -> None:
    """Write the page, replaced atomically."""
    members = [member for run in runs for member in run.members]
    finished = sum(run.state == "finished" for run in runs)
    summary = (
        f"{len(runs)} runs, {finished} finished, with {len(members)} members of "
        f"{len({run.task for run in runs})} tasks."
    )
    notes = {PANELS: _about_diagnosed(len({member.task for member in members}))}
    sections = [
        *([_verdicts(verdicts)] if verdicts else []),
        *([_problems(problems)] if problems else []),
        *(Section(table.title, _table(table)) for table in tables if table.name != "health"),
        *(
            Section(
                title,
                notes.get(title, "") + _figures(title, pictures),
            )
            for title in dict.fromkeys(p.section for p in pictures)
        ),
        *_videos(runs),
        *(Section(table.title, _table(table)) for table in tables if table.name == "health"),
    ]
    blocks, links = [], []
    for number, section in enumerate(sections):
        title = html.escape(section.title)
        links.append(f'<li><a href="#section{number}">{title}</a></li>')
        blocks.append(
            f'<section aria-labelledby="section{number}"><h2 id="section{number}">{title}</h2>'
            f"{section.content}</section>"
        )
    page = string.Template(_resource("page.html")).substitute(
        title="Results" if len(runs) != 1 else f"Results of {html.escape(runs[0].name)}",
        style=_resource("page.css"),
        script=_resource("page.js"),
        summary=summary,
        links="".join(links),
        sections="\n".join(blocks),
        version=__version__,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _verdicts(verdicts: Sequence[Verdict]) -> Section:
    items = (f"<li{'' if v.met else BAD}>{html.escape(str(v))}</li>" for v in verdicts)
    return Section("Thresholds", f"<ul>{''.join(items)}</ul>")


def _problems(problems: Problems) -> Section:
    items = [f"<li>{html.escape(problem)}</li>" for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        items.append(f"<li>... {len(problems) - MAX_PROBLEMS} more in results.json</li>")
    return Section("Problems", f"<ul>{''.join(items)}</ul>")


def _table(table: Table) -> str:
    texts = {
        key for key in table.headings if any(isinstance(row.get(key), str) for row in table.rows)
    }
    heads = "".join(
        f'<th scope="col" aria-sort="none"{TEXT if key in texts else ""}>'
        f'<button type="button">{html.escape(heading)}</button></th>'
        for key, heading in table.headings.items()
    )
    rows = "".join(f"<tr>{''.join(_cells(table, row, texts))}</tr>" for row in table.rows)
    title, note = html.escape(table.title), html.escape(table.note)
    return (
        f'<p class="note">{note}</p>'
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}, table">'
        f"<table><caption>{title}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(table: Table, row: Mapping[str, Any], texts: set[str]) -> Iterable[str]:
    for key in table.headings:
        value = row.get(key)
        shown = html.escape("–" if value is None else format_number(value))
        full = html.escape("" if value is None else str(value), quote=True)
        yield f'<td data-value="{full}"{TEXT if key in texts else ""}>{shown}</td>'


def format_number(value: Any) -> str:
    """Return a value as a table shows it: three digits, and all those before the point."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() or abs(value) >= 999.5 else f"{value:,.3g}"
    return f"{value:,}" if type(value) is int else str(value)


def _about_diagnosed(tasks: int) -> str:
    """Return a note about the tasks without figures of diagnostics, or ''."""
    if tasks <= MAX_DIAGNOSED:
        return ""
    return (
        f'<p class="note">Of {MAX_DIAGNOSED} of {tasks} tasks, first those of members that show '
        "signs of failure. A report of fewer tasks has all of theirs.</p>"
    )


def _figures(section: str, pictures: Sequence[Picture]) -> str:
    """Return the figures of a section; those of many panels are not shrunk to a phone's width."""
    blocks = (
        f'<figure><div class="picture" role="region" tabindex="0" '
        f'aria-label="{html.escape(p.title, quote=True)}, figure">'
        f'<img loading="lazy" alt="{html.escape(p.text, quote=True)}" '
        f'src="{_data("image/png", p.png)}"></div>'
        f"<figcaption>{html.escape(p.title)}</figcaption></figure>"
        for p in pictures
        if p.section == section
    )
    large = " large" if section == PANELS else ""
    return f'<div class="figures{large}">{"".join(blocks)}</div>'


def _videos(runs: Sequence[Run]) -> list[Section]:
    """Return the newest open-loop video of each run's first member, as far as they fit."""
    blocks, size, left_out = [], 0, 0
    for run in runs:
        videos = open_loop_videos(run.path / "videos")
        if not videos:
            continue
        first = min(video.member for video in videos)
        newest = [video for video in videos if video.member == first][-1]
        try:
            content = newest.path.read_bytes()
        except OSError:
            content = b""
        if not content.startswith(b"GIF8"):
            bad = html.escape(f"{newest.path}: no GIF, or it cannot be read")
            blocks.append(f"<p{BAD}>{bad}</p>")
            continue
        if len(blocks) == MAX_VIDEOS or size + len(content) > MAX_VIDEO_BYTES:
            left_out += 1
            continue
        size += len(content)
        title = html.escape(
            f"{run.name}, member {newest.member}, {newest.key}, env step {newest.env_step}"
        )
        blocks.append(
            f"<details><summary>{title}</summary><figure>"
            f'<img loading="lazy" src="{_data("image/gif", content)}" alt="Open-loop prediction of '
            f"{title}: the true images in the first row, the model's below, then the error, last "
            f"what the model imagines under the policy. Frames are blue while the model sees the "
            f'images."></figure></details>'
        )
    if not blocks:
        return []
    note = (
        "After a few frames of context, framed in blue, the model predicts alone. Rows: truth, "
        "model with the true actions (orange), error, and model with the policy's own actions "
        "(green). Purple: a new episode began, of which the model knows nothing. "
    ) + (f"{left_out} runs more have videos in their directories." if left_out else "")
    return [Section("Open-loop predictions", f'<p class="note">{note}</p>{"".join(blocks)}')]


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
