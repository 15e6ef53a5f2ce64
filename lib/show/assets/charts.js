// Save a live chart as it stands, in black on white: its caption's link to the drawing does, and one more for a PNG.
function offer(box, view) {
  const drawing = box.closest("figure")?.querySelector(".figure-links a[href$='.svg']");
  if (!drawing) return;
  const save = (link, type) => link.addEventListener("click", async (event) => {
    event.preventDefault();
    const page = view.background();
    const made = document.createElement("a");
    made.href = await view.background("white").toImageURL(type, 2);
    made.download = drawing.getAttribute("href").split("/").pop().replace("svg", type);
    made.click();
    view.background(page).run();
  });
  const picture = drawing.cloneNode();
  picture.textContent = "PNG";
  drawing.after(" · ", picture);
  save(drawing, "svg");
  save(picture, "png");
}

// Replace each static SVG by the interactive chart; if anything fails the SVG stays.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.vegaEmbed) return;
  // Side bars slide when a window is resized: charts measure themselves once more when the text has found its width.
  const again = new ResizeObserver(() => window.dispatchEvent(new Event("resize")));
  document.querySelectorAll("article").forEach((text) => again.observe(text));
  for (const box of document.querySelectorAll(".vl-chart")) {
    const spec = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    const single = !["facet", "hconcat", "vconcat", "concat", "repeat"].some((key) => key in spec)
      && !["row", "column", "facet"].some((key) => key in (spec.encoding || {}));
    if (single && !("width" in spec)) Object.assign(spec, { width: "container", autosize: { type: "fit-x", contains: "padding" } });
    const live = document.createElement("div");
    live.style.width = "100%";
    const still = box.querySelector("svg");
    still.before(live);
    // logLevel 1: errors; Vega-Lite's advice on layout is for whoever writes the chart.
    vegaEmbed(live, spec, { renderer: "svg", actions: false, logLevel: 1, tooltip: { theme: "custom" } })
      .then(({ view }) => {
        offer(box, view);
        still.remove();
        box.setAttribute("role", "figure"); // a picture must not hold the sliders that a live chart may have
        box.tabIndex = 0; // a wide chart scrolls, by keyboard too
        box.dataset.live = "1";
      })
      .catch((error) => { live.remove(); console.error("chart", error); });
  }
});
