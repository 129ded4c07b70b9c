// Elements, and requests. Texts go into elements as text, whatever stands in them.

export const at = id => document.getElementById(id);

export const el = (tag, given = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

let hushed = 0;
export const say = text => {
  at("said").textContent = text;
  clearTimeout(hushed);
  hushed = setTimeout(() => { at("said").textContent = ""; }, 10000);
};

// The status, 0 where no answer came, and what was said.
export const ask = async (path, given) => {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given) };
  try {
    const answer = await fetch(`/api/${path}`, { ...(given ? post : {}), signal: AbortSignal.timeout(20000) });
    return { status: answer.status, said: await answer.json() };
  } catch {
    return { status: 0, said: {} };
  }
};

export const turns = messages => messages.map(({ role, text }) =>
  el("li", { className: `turn ${["user", "assistant", "system"].includes(role) ? role : "other"}` },
    el("span", { className: "role" }, role.charAt(0).toUpperCase() + role.slice(1)), el("div", { className: "text" }, text)));
