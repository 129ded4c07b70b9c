// What the owner sees.

import { ask, at, el, turns } from "./dom.js";

const share = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)} %` : "–";
const fixed = (value, digits = 2) => value === null ? "–" : value.toFixed(digits).replace("-", "−");
const seconds = value => value === null ? "–" : value < 90 ? `${value.toFixed(0)} s` : `${(value / 60).toFixed(1)} min`;

const table = (caption, heads, rows) => el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
  el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads.map(text => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map(([first, ...rest]) =>
      el("tr", {}, el("th", { scope: "row" }, first), ...rest.map(text => el("td", {}, `${text}`)))))));

const labelers = (found, cutOff) => table("What each has done, and how far they agree",
  ["Labeler", "Group", "Done", "Skipped", "Median time", "Per hour", "Agrees with others", "Of pairs", `Screening, ${100 * cutOff} % to pass`, "Last"],
  found.map(one => [one.name, one.group || "–", one.done, one.skipped, seconds(one.median), fixed(one.hourly, 0),
    share(one.agreed, one.pairs), one.pairs,
    one.screened ? `${share(one.screened.agreed, one.screened.pairs)}, flags ${share(one.screened.same_flags, one.screened.flags)}: ${one.screened.passes ? "passes" : "does not pass"}` : "–",
    one.last === null ? "–" : new Date(1000 * one.last).toISOString().slice(0, 16).replace("T", " ")]));

const disagreement = one => el("details", {},
  el("summary", {}, `${share(one.agreed, one.pairs)} of ${one.pairs} pairs: ${one.conversation.at(-1)?.text.slice(0, 90) ?? one.task}`),
  el("ol", { className: "turns" }, ...turns(one.conversation)),
  table(`Ranks and ratings of ${one.task}`, ["Answer", ...one.labelers.map(each => each.name)],
    one.answers.map((answer, i) => [
      el("span", { className: "text" }, answer.text, ...(answer.model ? [el("small", {}, answer.model)] : [])),
      ...one.labelers.map(each => `${each.ranks[i]}${each.ratings.length ? ` (${each.ratings[i]})` : ""}`)])));

const load = async () => {
  const { status, said } = await ask("overview");
  if (status !== 200) return at("overview").replaceChildren(el("p", {}, said.error ?? "No answer came: load the page again."));
  const { progress: p, pairs } = said;
  at("share").textContent = `${p.done} of ${p.wanted} done, ${p.leased} at work, ${p.skipped} skipped${p.stuck ? `, ${p.stuck} tasks that nobody is left for` : ""}`;
  at("bar").max = Math.max(1, p.wanted);
  at("bar").value = p.done;
  at("overview").replaceChildren(
    el("h2", {}, "Agreement"),
    el("p", {}, `Two labelers agree on ${share(pairs.agreed, pairs.pairs)} of ${pairs.pairs} pairs of answers that both ranked without a tie.`),
    table("Beyond chance", ["Of", "Krippendorff’s α", "Fleiss’ κ"], said.figures.map(one => [one.name, fixed(one.alpha), fixed(one.kappa)])),
    el("h2", {}, "Labelers"), labelers(said.labelers, said.cut_off),
    el("h2", {}, "Disagreements to look at"),
    ...(said.disagreements.length ? said.disagreements.map(disagreement) : [el("p", {}, "None so far.")]));
};
load();
