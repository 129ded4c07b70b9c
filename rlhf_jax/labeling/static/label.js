// The page where people label. What is not submitted is kept in this browser; what is submitted stays here as well until the
// server has said that it has it, and is sent again under the same id.

import { ask, at, el, say, turns } from "./dom.js";

const KEYS = { fails_instruction: "f", inappropriate: "i", hallucination: "h", satisfies_constraint: "c", sexual: "s", violent: "v",
  encourages_harm: "e", denigrates: "d", harmful_advice: "g", opinion: "o", moral_judgment: "m" };
const MOST_DRAFTS = 20, DAY = 86400;
const letter = i => i < 26 ? String.fromCharCode(65 + i) : letter(Math.floor(i / 26) - 1) + letter(i % 26);
const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, "0")).join("");
const session = random();

// What this browser keeps, or, where it keeps nothing, this page.
const kept = {
  page: new Map(),
  get: name => { try { return JSON.parse(localStorage.getItem(name)) ?? kept.page.get(name); } catch { return kept.page.get(name); } },
  set: (name, value) => {
    kept.page.set(name, value);
    try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* full, or forbidden */ }
  },
  drop: name => { kept.page.delete(name); try { localStorage.removeItem(name); } catch { /* as above */ } },
  names: start => {
    let all = [...kept.page.keys()];
    try { all = [...new Set([...all, ...Object.keys(localStorage)])]; } catch { /* as above */ }
    return all.filter(name => name.startsWith(start));
  },
};

let about = null, task = null, draft = null, current = 0, busy = true, seen = null, worked = false;
const of = kind => `label/${kind}/${about.labeler}/`;
const compares = () => task?.kind === "comparison";

// Time counts while the page is looked at.
const clock = () => {
  const now = performance.now();
  if (draft && seen !== null) draft.seconds = Math.min(DAY, draft.seconds + (now - seen) / 1000);
  seen = task && !busy && document.visibilityState === "visible" ? now : null;
};
const save = () => {
  clock();
  if (task && !busy) kept.set(of("draft") + task.key, { ...draft, saved: Date.now() });
};

// The server.

const wait = seconds => new Promise(done => setTimeout(done, 1000 * seconds));
const passes = status => status === 0 || status === 408 || status === 429 || status >= 500;

const untilAnswered = async (path, given, meanwhile) => {
  for (let pause = 0.25; ; pause = Math.min(8, 2 * pause)) {
    const answer = await ask(path, given);
    if (!passes(answer.status)) return answer;
    say(answer.said.error ? `${meanwhile}: ${answer.said.error}` : `${meanwhile}: no answer yet, trying again…`);
    await wait(pause);
  }
};

const deliver = async () => {
  let words = "";
  for (const name of kept.names(of("pending"))) {
    const { status, said } = await untilAnswered("submit", kept.get(name), "Saving");
    if (status === 401) return stop(status, said);
    kept.drop(name);
    if (status !== 200) words = `Not taken: ${said.error}`;
  }
  return words;
};

const stop = (status, said) => {
  task = null;
  draw();
  at("step").textContent = status === 401 ? "Who are you?" : "This cannot go on";
  at("ask").textContent = `${said.error}.`;
  say("");
  return null;
};

const load = async (path = "next", words = "") => {
  busy = true;
  const { status, said } = path === "next" ? await untilAnswered("next", {}, "Loading") : await ask(path, {});
  if (path === "undo" && passes(status)) return load("next", said.error ?? "No answer came.");
  if (status !== 200) return stop(status, said);
  about = said;
  if (kept.names(of("pending")).length) {
    const refused = await deliver();
    return refused === null ? null : load("next", refused || words);
  }
  begin(said.task, path === "undo" ? (said.undone ? "Taken back." : "There is nothing to take back.") : words);
};

const begin = (given, words) => {
  if (!given) setTimeout(() => { if (!task && !busy) load("next", at("said").textContent); }, 15000);  // what others leave comes back
  task = given;
  const K = task?.answers?.length ?? 0, none = value => Array(K).fill(value);
  const empty = { stage: "rate", ratings: none(0), flags: [...none(0)].map(() => []), ranks: none(0), text: "", examples: [["", ""], ["", ""]],
    seconds: 0 };
  draft = task && { ...empty, ...kept.get(of("draft") + task.key) };
  current = 0;
  seen = null;
  busy = false;
  const drafts = kept.names(of("draft")).sort((a, b) => (kept.get(b)?.saved ?? 0) - (kept.get(a)?.saved ?? 0));
  drafts.slice(MOST_DRAFTS).forEach(kept.drop);
  draw();
  clock();
  say(words);
  if (!task) return;
  at("step").focus({ preventScroll: true });
  scrollTo(0, 0);
};

const submit = async said => {
  save();
  const id = random(), given = { id, task: task.key, session, seconds: Math.round(10 * draft.seconds) / 10, ...said };
  if (new TextEncoder().encode(JSON.stringify(given)).length > about.largest) return say(`This is too long: ${about.largest} bytes is the most.`);
  busy = true;
  clock();
  draw();
  kept.set(of("pending") + id, given);
  say("Saving…");
  const refused = await deliver();
  if (refused !== null) await load("next", refused || "Saved.");
};

// What labelers do.

const name = i => `Answer ${letter(i)}`;
const focus = i => {
  current = Math.max(0, Math.min(task.answers.length - 1, i));
  at("answers").children[current].focus();
};
const missing = values => values.findIndex(value => !value);

const rate = (i, value) => {
  draft.ratings[i] = value;
  changed(`${name(i)}: ${value} of ${about.scale[1]}`);
};
const flag = (i, which) => {
  const flags = draft.flags[i], on = !flags.includes(which);
  draft.flags[i] = on ? [...flags, which] : flags.filter(each => each !== which);
  changed(`${name(i)}: ${about.flags[which]}, ${on ? "yes" : "no"}`);
};
const rank = (i, value) => {
  draft.ranks[i] = value;
  const tied = draft.ranks.map((rank, j) => j !== i && value && rank === value ? letter(j) : "").filter(Boolean);
  changed(value ? `${name(i)}: rank ${value}${tied.length ? `, tied with ${tied.join(", ")}` : ""}` : `${name(i)}: no rank`);
};
const changed = words => {
  worked = true;
  save();
  refresh();
  say(words);
};
const stage = next => {
  draft.stage = next;
  save();
  draw();
  say("");
  at("step").focus({ preventScroll: true });
  current = 0;
  refresh();
  at("answers").scrollIntoView({ block: "nearest" });
};

const go = () => {
  if (busy || !task) return;
  if (!compares()) return submitWriting();
  const rating = draft.stage === "rate", lacking = missing(rating ? draft.ratings : draft.ranks);
  if (lacking >= 0) {
    focus(lacking);
    return say(`${name(lacking)} has no ${rating ? "rating" : "rank"} yet.`);
  }
  if (rating) return stage("rank");
  if (!draft.ranks.includes(1)) return say("No answer has rank 1, which is the best.");
  const flags = draft.flags.map(on => Object.fromEntries(Object.keys(about.flags).map(each => [each, on.includes(each)])));
  submit({ ranks: draft.ranks, ratings: draft.ratings, flags });
};

const submitWriting = () => {
  if (!draft.text.trim()) return say("There is no text yet.");
  const pairs = draft.examples.filter(pair => pair.some(text => text.trim()));
  if (task.kind !== "few_shot") return submit({ text: draft.text });
  if (pairs.length < 2 || pairs.some(pair => pair.some(text => !text.trim()))) return say("Give two examples or more, each with both texts.");
  submit({ text: draft.text, examples: pairs });
};

// Drawing.

const draw = () => {
  const rating = draft?.stage === "rate";
  for (const id of ["conversation", "answers", "writing", "foot"]) at(id).hidden = !task || busy;
  for (const id of ["undo", "skip"]) at(id).disabled = busy || !about || (id === "skip" && !task);
  const { done = 0, left = 0 } = about?.share ?? {};
  at("share").textContent = about ? `${about.labeler}: ${done} done, ${left} to do` : "";
  at("bar").max = Math.max(1, done + left);
  at("bar").value = done;
  at("board").hidden = !compares() || rating || busy;
  at("ask").textContent = "";
  if (busy) return;
  at("step").textContent = !task ? "There is nothing for you to do at the moment."
    : !compares() ? "Write" : rating ? "Rate each answer" : "Rank all answers";
  document.title = `${at("step").textContent} · Label`;
  if (!task) return;
  at("ask").textContent = compares() ? "" : `${task.ask}.`;
  at("conversation").replaceChildren(...turns(task.conversation),
    ...(task.about ? [el("li", { className: "turn other" }, el("div", { className: "text" }, task.about))] : []));
  at("conversation").hidden = !at("conversation").children.length;
  at("answers").replaceChildren(...(compares() ? task.answers.map((text, i) => card(text, i, rating)) : []));
  at("writing").hidden = compares();
  at("writing").replaceChildren(...(compares() ? [] : fields()));
  at("back").hidden = !compares() || rating;
  at("go").replaceChildren(...(compares() ? [rating ? "On to the ranks " : "Submit ", el("kbd", {}, "Enter")]
    : ["Submit ", el("kbd", {}, "Ctrl"), " ", el("kbd", {}, "Enter")]));
  at("board").replaceChildren(...(compares() && !rating ? shelves() : []));
  refresh();
};

const card = (text, i, rating) => el("div",
  { className: "answer", tabIndex: 0, role: "group", "aria-label": name(i), onfocusin: () => { current = i; refresh(); } },
  el("h3", {}, name(i), el("span", { className: "mark" })),
  el("div", { className: "text" }, text),
  ...(rating ? [scale(i), ticks(i)] : [place(i)]));

const scale = i => {
  const [least, most] = about.scale, values = Array.from({ length: most - least + 1 }, (_, n) => least + n);
  const radio = value => el("label", {}, el("input", { type: "radio", name: `rating${i}`, value, onchange: () => rate(i, value) }), `${value}`);
  return el("fieldset", { className: "scale" }, el("legend", {}, `Overall quality, ${most} is best`), el("span", { className: "end" }, "bad"),
    ...values.map(radio), el("span", { className: "end" }, "good"));
};

const ticks = i => el("fieldset", { className: "ticks" }, el("legend", {}, "True of it"),
  ...Object.entries(about.flags).map(([which, label]) => el("label", { className: "tick" },
    el("input", { type: "checkbox", value: which, onchange: () => flag(i, which) }), el("span", {}, label, " ", el("kbd", {}, KEYS[which] ?? "")))));

const place = i => el("label", { className: "place" }, "Rank ",
  el("select", { "aria-label": `Rank of answer ${letter(i)}`, onchange: event => rank(i, Number(event.target.value)) },
    el("option", { value: 0 }, "–"),
    ...task.answers.map((_, n) => el("option", { value: n + 1 }, n === 0 ? "1, the best" : `${n + 1}`))));

const shelves = () => {
  const shelf = value => el("div", { className: "shelf", "data-rank": value },
    el("span", { className: "role" }, value === 0 ? "no rank yet" : value === 1 ? "1, the best" : `${value}`));
  const all = [shelf(0), ...task.answers.map((_, n) => shelf(n + 1))];
  task.answers.forEach((_, i) => all[draft.ranks[i]].append(chip(i)));
  return all;
};

// A chip is dragged onto a shelf, with a mouse or a finger; a click goes to its answer.
const chip = i => {
  let from = null;
  const over = event => document.elementsFromPoint(event.clientX, event.clientY).find(each => each.classList.contains("shelf"));
  const drop = () => {
    from = null;
    made.style.transform = "";
    made.classList.remove("dragged");
    document.querySelectorAll(".over").forEach(each => each.classList.remove("over"));
  };
  const made = el("button", {
    type: "button", className: "chip", "data-answer": i,
    onpointerdown: event => { from = [event.clientX, event.clientY]; made.setPointerCapture(event.pointerId); },
    onpointermove: event => {
      if (!from) return;
      made.classList.add("dragged");
      made.style.transform = `translate(${event.clientX - from[0]}px, ${event.clientY - from[1]}px)`;
      for (const each of at("board").children) each.classList.toggle("over", each === over(event));
    },
    onpointerup: event => {
      const found = over(event), moved = from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 5;
      drop();
      if (moved && found) rank(i, Number(found.dataset.rank));
      else if (!moved) focus(i);
    },
    onpointercancel: drop,
    onkeydown: event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); focus(i); } },
  }, letter(i));
  return made;
};

// What changes while the elements stay, and with them the focus.
const refresh = () => {
  if (!compares() || busy) return;
  [...at("answers").children].forEach((each, i) => {
    each.classList.toggle("current", i === current);
    each.querySelector(".mark").textContent = draft.stage === "rate" ? "" : `rated ${draft.ratings[i]}`;
    for (const input of each.querySelectorAll("input[type=radio]")) input.checked = Number(input.value) === draft.ratings[i];
    for (const input of each.querySelectorAll("input[type=checkbox]")) input.checked = draft.flags[i].includes(input.value);
    for (const select of each.querySelectorAll("select")) select.value = draft.ranks[i];
  });
  for (const each of at("board").querySelectorAll(".chip")) {
    const i = Number(each.dataset.answer), shelf = at("board").children[draft.ranks[i]];
    each.setAttribute("aria-label", `${name(i)}, ${draft.ranks[i] ? `rank ${draft.ranks[i]}` : "no rank yet"}: go to it`);
    if (each.parentElement !== shelf) shelf.append(each);
  }
};

const area = (label, value, write, rows) => el("label", { className: "field" }, label,
  el("textarea", { value, rows, oninput: event => { worked = true; write(event.target.value); save(); } }));

const fields = () => {
  const label = { demonstration: "Your answer", plain: "Your prompt", few_shot: "The instruction", user_based: "Your prompt" }[task.kind];
  const text = area(label, draft.text, value => { draft.text = value; }, task.kind === "few_shot" ? 3 : 8);
  if (task.kind !== "few_shot") return [text];
  const again = count => {
    draft.examples = Array.from({ length: count }, (_, i) => draft.examples[i] ?? ["", ""]);
    save();
    draw();
    at("writing").querySelector(count > 2 ? "fieldset:last-of-type textarea" : "textarea")?.focus();
  };
  const pair = (each, i) => el("fieldset", {}, el("legend", {}, `Example ${i + 1}`),
    ...["Query", "Response"].map((label, side) => area(label, each[side], value => { each[side] = value; }, 2)));
  const count = draft.examples.length;
  return [text, ...draft.examples.map(pair), el("p", { className: "actions" },
    el("button", { type: "button", onclick: () => again(count + 1), disabled: count >= 64 }, "Another example"),
    el("button", { type: "button", onclick: () => again(count - 1), disabled: count <= 2 }, "Remove the last"))];
};

// Controls.

const undo = () => { if (!busy && about) { save(); load("undo"); } };
const skipping = () => { if (!busy && task) { at("why").value = ""; at("skipping").showModal(); } };
const leave = () => {
  if (!at("why").value.trim()) return at("why").focus();
  at("skipping").close();
  submit({ skipped: at("why").value });
};

at("go").addEventListener("click", go);
at("back").addEventListener("click", () => stage("rate"));
at("undo").addEventListener("click", undo);
at("skip").addEventListener("click", skipping);
at("leave").addEventListener("click", leave);
at("stay").addEventListener("click", () => at("skipping").close());
at("why").addEventListener("keydown", event => { if (event.key === "Enter") { event.preventDefault(); leave(); } });
at("keys").addEventListener("change", event => kept.set("label/keys", event.target.checked));
at("keys").checked = kept.get("label/keys") ?? true;
at("help").addEventListener("toggle", () => kept.set("label/help", at("help").open));
at("help").open = kept.get("label/help") ?? false;

const digit = value => {
  const rating = draft.stage === "rate", [least, most] = rating ? about.scale : [0, Math.min(9, task.answers.length)];
  if (value < least || value > most) return say(`${rating ? "Ratings" : "Ranks"} go from ${rating ? least : 1} to ${rating ? most : task.answers.length}.`);
  (rating ? rate : rank)(current, value);
};

document.addEventListener("keydown", event => {
  const { key, target } = event;
  if (at("skipping").open || event.altKey || event.defaultPrevented) return;
  if (key === "Enter" && (event.ctrlKey || event.metaKey)) return compares() ? undefined : go();
  if (event.ctrlKey || event.metaKey || target.closest("textarea, input[type=text]")) return;
  if (key === "Enter") return target.closest("button, a, summary, select") || !compares() ? undefined : go();
  const native = target.closest("select, input[type=radio]");
  const step = { j: 1, k: -1, ArrowDown: native ? 0 : 1, ArrowUp: native ? 0 : -1 }[key];
  const letters = at("keys").checked, which = Object.keys(KEYS).find(each => KEYS[each] === key);
  if (key.length === 1 && !letters) return;
  const act = key === "?" ? () => { at("help").open = !at("help").open; }
    : key === "u" ? undo : key === "x" ? skipping
    : busy || !compares() ? null
    : step ? () => focus(current + step)
    : /^[0-9]$/.test(key) ? () => digit(Number(key))
    : key === "b" && draft.stage === "rank" ? () => stage("rate")
    : which && draft.stage === "rate" ? () => flag(current, which) : null;
  if (!act) return;
  event.preventDefault();
  act();
});
document.addEventListener("visibilitychange", save);
addEventListener("pagehide", save);
setInterval(save, 5000);
// What somebody is at work on stays theirs; what is left open returns to others.
setInterval(() => { if (worked && task && !busy) ask("next", {}); worked = false; }, 300_000);
load();
