// Where a link leads is shown beside it, while it is pointed at or has the focus: figures, equations, references.
document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll("article a.reference.internal[href*='#']")) {
    const id = decodeURIComponent(link.hash.slice(1));
    const content = window.previews?.[id] || link.title; // a citation's title is the reference in full
    if (!content || !window.bootstrap) continue;
    const isText = !(id in window.previews);
    link.removeAttribute("title");
    const card = new bootstrap.Popover(link, { content, html: !isText, trigger: "hover focus", placement: "auto", customClass: "preview" });
    link.addEventListener("inserted.bs.popover", () => {
      if (!isText) window.MathJax?.typesetPromise?.([card.tip]).then(() => card.update());
    });
    link.addEventListener("keydown", (event) => { if (event.key === "Escape") card.hide(); });
  }
});
