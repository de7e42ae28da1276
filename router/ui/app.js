// The frame: which view the address asks for, the key, the colours, the keyboard.

import { onKeyWanted } from "./api.js";
import { fleetView } from "./fleet.js";
import { requestsView } from "./requests.js";
import { tick } from "./running.js";
import { traceView } from "./trace.js";

const VIEWS = { requests: requestsView, trace: traceView, fleet: fleetView };
const main = document.getElementById("main");
const search = document.getElementById("search");
const trouble = document.getElementById("trouble");
let shown = { name: "", id: "", view: null, controller: null };

/** `#/trace/some%20id?detail=1` as name, id and parameters. */
function address() {
  const [path, parameters = ""] = location.hash.slice(1).split("?", 2);
  const [, name = "", id = ""] = path.split("/");
  const known = Object.hasOwn(VIEWS, name);
  return { name: known ? name : "requests", id: known ? decoded(id) : "", params: new URLSearchParams(parameters) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show() {
  const { name, id, params } = address();
  tell(null);
  if (shown.view !== null && name === shown.name && id === shown.id) {
    shown.view.update(params);
    return;
  }
  const first = shown.view === null;
  shown.controller?.abort();
  const controller = new AbortController();
  const told = (problem) => controller.signal.aborted || tell(problem);
  const view = VIEWS[name]({ id, signal: controller.signal, tell: told });
  shown = { name, id, view, controller };
  main.replaceChildren(view.element);
  document.title = `${view.title} · Trace router`;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.update(params);
  if (!first) main.focus({ preventScroll: true });
}

/** What went wrong, until it has gone right again (null). */
function tell(problem) {
  if (problem?.name === "AbortError") return;
  const text = problem === null ? "" : problem.message;
  if (trouble.textContent !== text) trouble.textContent = text;
  trouble.hidden = text === "";
}

// --- the key -----------------------------------------------------------------------------------

onKeyWanted((wrong) => {
  const dialog = document.getElementById("key-dialog");
  const form = dialog.querySelector("form");
  form.reset();
  document.getElementById("key-wrong").hidden = !wrong;
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      const key = new FormData(form).get("key").trim();
      if (dialog.returnValue !== "ok" || key === "") dialog.showModal(); // nothing is shown without it
      else {
        dialog.removeEventListener("close", closed);
        form.reset();
        resolve(key);
      }
    };
    dialog.returnValue = "";
    dialog.addEventListener("close", closed);
  });
});

// --- search, colours, keyboard -----------------------------------------------------------------

search.addEventListener("submit", (event) => {
  event.preventDefault();
  const id = new FormData(search).get("id").trim();
  if (id === "") return;
  location.hash = `#/trace/${encodeURIComponent(id)}`;
  search.reset();
});

const THEMES = { auto: ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };
const theme = document.getElementById("theme");
function colour(name) {
  const [text, said] = THEMES[name];
  document.documentElement.style.colorScheme = name === "auto" ? "light dark" : name;
  theme.textContent = text;
  theme.setAttribute("aria-label", `Colours: ${said}`);
  theme.dataset.theme = name;
  localStorage.setItem("trace-router-theme", name);
}
theme.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  colour(names[(names.indexOf(theme.dataset.theme) + 1) % names.length]);
});
const kept = localStorage.getItem("trace-router-theme") ?? "auto";
colour(Object.hasOwn(THEMES, kept) ? kept : "auto");

const help = document.getElementById("help-dialog");
document.getElementById("help").addEventListener("click", () => help.showModal());
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the view's
  main.focus();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && event.target === search.elements.id) {
    main.focus();
    return;
  }
  if (event.target.closest("input, select, textarea")) return;
  const keys = {
    "/": () => search.elements.id.focus(),
    "?": () => help.showModal(),
    g: () => (location.hash = "#/requests"),
    f: () => (location.hash = "#/fleet"),
  };
  const done = keys[event.key] ?? shown.view.keys?.[event.key];
  if (done === undefined) return;
  event.preventDefault();
  done();
});

window.addEventListener("hashchange", show);
setInterval(tick, 1000);
show();
