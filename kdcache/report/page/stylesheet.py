"""The web page's style sheet: a book page for the words, a narrow face for what is counted; light, dark and printed."""

_LIGHT = """
  --paper: #fcfbf8; --ink: #1f2326; --soft: #585e64; --rule: #dedad2; --wash: #f3f1eb; --faint: #d3d6d8;
  --best: #0a5a8a; --zero: #a34b00; --other: #868c92; --middling: #000; --deep: #fcfbf8; --agree: #3f7d62;
"""


_DARK = """
  --paper: #15171a; --ink: #e6e4de; --soft: #a6abb0; --rule: #34383c; --wash: #1d2023; --faint: #43484d;
  --best: #7cc3f0; --zero: #f0a765; --other: #7d848a; --middling: #0b0c0e; --deep: #0b0c0e; --agree: #7fc4a4;
"""


_PAGE = """
* { box-sizing: border-box; }
html { font-size: 106.25%; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; overflow-wrap: break-word;
  font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", "P052", "Book Antiqua", Georgia, serif; }
main { max-width: 66rem; margin: 0 auto; padding: 4.5rem 2rem 5rem; }
header { max-width: 42rem; margin-bottom: 3.5rem; }
h1 { font-size: 2.3rem; font-weight: 400; line-height: 1.15; letter-spacing: -0.012em; margin: 0 0 1.1rem; text-wrap: balance; }
h2 { font-size: 1.3rem; font-weight: 400; line-height: 1.25; margin: 0 0 0.6rem; }
h3 { font-size: 1rem; font-weight: 400; font-style: italic; margin: 1.9rem 0 0.5rem; }
p { margin: 0 0 0.8rem; text-wrap: pretty; }
.lede { font-size: 1.16rem; line-height: 1.5; }
section { display: grid; grid-template-columns: minmax(0, 15rem) minmax(0, 1fr); column-gap: 3.5rem;
  border-top: 1px solid var(--rule); padding: 1.5rem 0 3.2rem; }
section > .aside { color: var(--soft); font-size: 0.89rem; line-height: 1.5; }
section > .aside h2 { color: var(--ink); }
section > div > h3:first-child { margin-top: 0.1rem; }
figure { margin: 0 0 1.4rem; }
figcaption, .missing { font-size: 0.85rem; color: var(--soft); line-height: 1.45; margin: 0.5rem 0 0; }
.sections { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); column-gap: 2.4rem; }
.sections > * { max-width: 27rem; }
section > .across { grid-column: 1 / -1; margin-top: 0.6rem; }
a { color: inherit; }

svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11px/1 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: var(--ink);
  font-variant-numeric: tabular-nums; }
svg .tick, svg .note, svg text.other { fill: var(--soft); }
svg text.small { font-size: 9px; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg text.best, svg text.on-paper { fill: var(--best); } svg text.zero { fill: var(--zero); }
svg text.middling { fill: var(--middling); } svg text.deep { fill: var(--deep); }
svg .grid { stroke: var(--rule); stroke-width: 0.7; }
svg .rule { stroke: var(--soft); stroke-width: 0.9; stroke-dasharray: 3 3; }
svg .best { --mark: var(--best); } svg .zero { --mark: var(--zero); } svg .other { --mark: var(--other); }
svg .range { stroke: var(--mark); stroke-width: 1; opacity: 0.55; }
svg .mean { stroke: var(--mark); stroke-width: 2.2; }
svg .dot { fill: var(--mark); fill-opacity: 0.45; stroke: none; }
svg .curve { fill: none; stroke: var(--mark); stroke-width: 1.9; stroke-linejoin: round; }
svg .curve.other { stroke-width: 1; opacity: 0.75; } svg .curve.zero { stroke-dasharray: 5 2.5; }
svg .band { fill: var(--mark); opacity: 0.16; stroke: none; } svg .band.other { opacity: 0.07; }
svg .cell { fill: var(--best); } svg .bar { fill: var(--mark); fill-opacity: 0.75; } svg .faint { fill: var(--faint); }
svg .gap { stroke: var(--ink); stroke-width: 1.4; }
svg .both { fill: var(--agree); } svg .student { fill: var(--best); } svg .teacher { fill: var(--other); }
svg .mistake { fill: var(--zero); } svg .differing { fill: var(--faint); }
svg .on-both, svg .on-student, svg .on-mistake { fill: var(--paper); } svg .on-teacher { fill: var(--middling); }
svg .on-differing { fill: var(--ink); }
.key { display: inline-block; width: 0.72em; height: 0.72em; margin-right: 0.3em; }
.key.best, .key.student { background: var(--best); } .key.zero, .key.mistake { background: var(--zero); }
.key.other, .key.teacher { background: var(--other); } .key.both { background: var(--agree); }
.key.differing { background: var(--faint); }
.keys { list-style: none; margin: 0 0 1rem; padding: 0; display: flex; flex-wrap: wrap; gap: 0.1rem 1.1rem;
  font-size: 0.85rem; }

.scroll { overflow-x: auto; margin: 0.4rem 0 1rem; }
.scroll:focus-visible { outline: 2px solid var(--best); outline-offset: 3px; }
table { border-collapse: separate; border-spacing: 0;
  font: 0.82rem/1.35 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: 0.8rem; color: var(--soft); padding-bottom: 0.5rem; }
th, td { text-align: right; padding: 0.36rem 0 0.36rem 1.1rem; white-space: nowrap; font-weight: 400;
  vertical-align: baseline; }
th:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 10.5rem; position: sticky; left: 0;
  background: var(--paper); }
thead th { color: var(--soft); border-bottom: 1px solid var(--soft); vertical-align: bottom; white-space: normal; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tr.best > * { font-weight: 650; } tr.teacher > * { color: var(--soft); }
td.words { white-space: normal; min-width: 7rem; color: var(--soft); font-size: 0.94em; }

.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr)); gap: 1.3rem 1.2rem;
  margin-bottom: 1.4rem; }
.tiles figure { margin: 0; }
.tiles img { display: block; width: 100%; max-width: 9rem; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated; }
.tiles figcaption { font: 0.74rem/1.4 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; margin-top: 0.35rem; }
.tiles figcaption b { font-weight: 600; color: var(--ink); display: block; }
.tiles figcaption span { display: block; }
.right { color: var(--best); } .wrong { color: var(--zero); }

.runs { list-style: none; margin: 0; padding: 0; }
.prints { font-size: 0.85rem; }
.runs li { margin: 0 0 0.9rem; }
.runs .facts { color: var(--soft); }
code { font: 0.76rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { margin: 0.25rem 0 0; padding: 0.5rem 0.7rem; background: var(--wash); white-space: pre-wrap; }
footer { border-top: 1px solid var(--rule); padding-top: 1rem; font-size: 0.85rem; color: var(--soft); }

@media (max-width: 50rem) {
  main { padding: 2.2rem 1.05rem 3rem; }
  header { margin-bottom: 2.2rem; }
  h1 { font-size: 1.75rem; }
  .lede { font-size: 1.06rem; }
  th, td { padding-left: 0.8rem; }
  th:first-child { min-width: 7.2rem; }
  section { display: block; padding: 1.2rem 0 1.8rem; }
  section > .aside { margin-bottom: 1.1rem; }
  .tiles { grid-template-columns: repeat(auto-fill, minmax(6.4rem, 1fr)); }
}
@media print {
  html { font-size: 80%; }
  body { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  section { display: grid; grid-template-columns: minmax(0, 13rem) minmax(0, 1fr); column-gap: 0;
    border: 0; padding: 0 0 1.6rem; }
  section > * { border-top: 1px solid var(--rule); padding-top: 1rem; }  /* not the section's own: it would stay behind */
  section > .aside { padding-right: 2rem; }
  section > .across { border: 0; padding: 0; }
  .scroll { overflow: visible; }
  th, td { padding-left: 0.6rem; }
  .sections, figure, .tiles figure, tr, .runs li { break-inside: avoid; }
  h2, h3, .aside { break-after: avoid; }
  .sections { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tiles { grid-template-columns: repeat(5, 1fr); gap: 0.8rem; }
}
"""


STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}\n"
    f"@media print {{ :root {{ color-scheme: light; --paper: #fff; --deep: #fff; }} }}\n{_PAGE}"
)
