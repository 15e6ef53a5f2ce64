// The explorer: the choice of model, step, layer and view stands in the address; charts are bound to the elements here.
(() => {
  const form = document.querySelector("form.explorer");
  if (!form) return;
  const { known, step, layer } = JSON.parse(form.querySelector("script").textContent);
  const { model, view, place, depth, at, stage } = form.elements;
  const has = (select, value) => [...select.options].some((option) => option.value === value);
  const upTo = (values, wanted) => Math.max(0, values.filter((value) => value <= wanted).length - 1);
  const tell = (name, value) => { // the charts listen on the hidden elements
    form.elements[name].value = value;
    form.elements[name].dispatchEvent(new Event("input"));
  };
  function choose(asked) {
    if (has(model, asked.model)) model.value = asked.model;
    if (has(view, asked.view)) view.value = asked.view;
    const { steps, layers } = known[model.value];
    place.max = steps.length - 1;
    place.value = upTo(steps, asked.step);
    depth.max = Math.max(0, layers.length - 1);
    depth.value = upTo(layers.map(([number]) => number), asked.layer);
    place.disabled = steps.length < 2;
    depth.disabled = layers.length < 2;
    show();
  }
  function show() {
    const { steps, layers } = known[model.value];
    const [number, words] = layers[depth.value] || [0, "not known"];
    at.value = steps[place.value].toLocaleString("en");
    stage.value = words;
    place.setAttribute("aria-valuetext", at.value);
    depth.setAttribute("aria-valuetext", words);
    for (const [name, value] of [["step", steps[place.value]], ["layer", number]]) tell(name, value);
    for (const select of [model, view]) select.dispatchEvent(new Event("input"));
  }
  const chosen = () => ({ model: model.value, step: +form.elements.step.value, layer: +form.elements.layer.value, view: view.value });
  function read() {
    const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const number = (name, otherwise) => (Number.isFinite(parseFloat(asked[name])) ? +asked[name] : otherwise);
    choose({ ...asked, step: number("step", step), layer: number("layer", layer) });
  }
  form.addEventListener("input", (event) => {
    if (!event.isTrusted) return; // our own, and those of the charts
    if (event.target === model) choose(chosen()); else show();
    history.replaceState(null, "", `#${new URLSearchParams(chosen())}`);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", read);
  form.hidden = false;
  form.nextElementSibling.remove(); // what stands there without JavaScript
  read();
})();
