"use strict";
const {charts, groups} = JSON.parse(document.getElementById("data").textContent);
const filters = [];
const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)");
const LIGHT = {ink: "#1f2326", soft: "#585e64", rule: "#e2e2e0", paper: "#ffffff"};
const DARK = {ink: "#e6e4de", soft: "#a6abb0", rule: "#34383c", paper: "#15171a"};

// An option that a group does not have (labels only has no temperature) does not hide it.
function shown(number) {
  return number === undefined || filters.every(({value, dataset}) =>
    value === "" || [value, null].includes(groups[number][dataset.option]));
}

function template({ink, soft, rule, paper}) {
  const axis = {automargin: true, gridcolor: rule, linecolor: soft, zeroline: false,
    zerolinecolor: soft, color: soft, title: {standoff: 8}};
  return {
    layout: {
      font: {color: ink, size: 12, family: "system-ui, 'Segoe UI', Roboto, Arial, sans-serif"},
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: {l: 10, r: 14, t: 12, b: 10}, xaxis: axis, yaxis: axis,
      legend: {orientation: "h", yref: "container", yanchor: "bottom", y: 0, x: 0, xanchor: "left"},
      hovermode: "closest", dragmode: coarse.matches ? false : "zoom",
      annotationdefaults: {bgcolor: paper, borderpad: 1},
      modebar: {bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink},
      hoverlabel: {bgcolor: paper, font: {color: ink}, namelength: -1},
    },
    data: {heatmap: [{textfont: {color: ink}}], bar: [{error_x: {color: soft}}]},
  };
}

// On paper there is nothing to hover over: a picture of each chart, in light colours.
async function draw() {
  const places = document.querySelectorAll(".chart"), printed = document.querySelectorAll(".printed");
  for (const [number, {data, layout}] of charts.entries()) {
    const traces = data.filter(trace => shown(trace.meta));
    const colours = template(dark.matches ? DARK : LIGHT);
    const config = {responsive: true, displaylogo: false, displayModeBar: coarse.matches ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]};
    await Plotly.react(places[number], traces, {...layout, template: colours}, config);
    const onPaper = {data: traces, layout: {...layout, template: template(LIGHT)}};
    const size = {format: "svg", width: printed[number].closest(".wide") ? 720 : 420, height: layout.height};
    printed[number].src = await Plotly.toImage(onPaper, size);
  }
  document.body.dataset.drawn = "yes";
}

function filter() {
  for (const element of document.querySelectorAll("[data-group]")) {
    element.hidden = !shown(Number(element.dataset.group));
  }
  draw();
}

// Numbers before text, what is empty last, in either direction.
function sort(table, column, descending) {
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const empty = text => text === "–", number = text => text !== "" && !isNaN(text);
  const compare = (a, b) => empty(a) - empty(b) || (descending ? -1 : 1) *
    (number(a) && number(b) ? a - b : a.localeCompare(b));
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b))));
  for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
    head.ariaSort = place !== column ? "none" : descending ? "descending" : "ascending";
  }
}

for (const table of document.querySelectorAll(".sortable")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    head.querySelector("button").addEventListener("click", () =>
      sort(table, column, head.ariaSort === "descending" ? false :
        head.ariaSort === "ascending" || column > 0));
  }
}
for (const option of Object.keys(groups[0])) {
  const values = [...new Set(groups.map(group => group[option]))].filter(value => value !== null);
  if (values.length < 2) continue;
  const label = document.createElement("label"), select = document.createElement("select");
  select.append(new Option("all", ""), ...values.map(value => new Option(value)));
  select.dataset.option = option;
  select.addEventListener("change", filter);
  label.append(`${option} `, select);
  document.querySelector(".filters").append(label);
  filters.push(select);
}
dark.addEventListener("change", draw);
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
draw();
