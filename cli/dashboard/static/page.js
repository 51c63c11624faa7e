// Tries a ranking without leaving the page, and suggests users. Without it the form does the same by loading anew.
const form = document.getElementById("try");

if (form) {
  const result = document.getElementById("result");
  const told = document.getElementById("told");
  const user = document.getElementById("user");
  const list = document.getElementById("users");
  let asking = null;
  let soon = 0;

  const rank = async () => {
    clearTimeout(soon);
    if (!form.reportValidity()) return;
    asking?.abort();
    const own = (asking = new AbortController());
    result.setAttribute("aria-busy", "true");
    let text;
    try {
      const answer = await fetch(form.action, {
        method: "POST", body: new FormData(form), headers: {"x-fragment": "1"}, signal: own.signal,
      });
      text = await answer.text();
      if (!answer.ok) throw new Error(`the page answered ${answer.status}`);
    } catch (error) {
      if (own.signal.aborted) return;
      text = null;
    }
    if (text === null) {
      const down = document.createElement("div");
      down.className = "down";
      down.setAttribute("role", "alert");
      down.textContent = "No ranking: the page's own server does not answer. Open it again: personalization open";
      result.replaceChildren(down);
    } else {
      result.innerHTML = text;
    }
    result.removeAttribute("aria-busy");
    told.textContent = result.querySelector(".summary")?.textContent ?? "";
  };

  // What is being typed may go on, and a press of Enter may follow: one ranking for all of it.
  const rankSoon = () => {
    clearTimeout(soon);
    soon = setTimeout(rank, 250);
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    rank();
  });

  form.addEventListener("input", (event) => {
    if (event.target.classList.contains("context") && (!user || user.value)) rankSoon();
  });

  user?.addEventListener("input", async () => {
    const asked = user.value;
    const answer = await fetch(`/users?q=${encodeURIComponent(asked)}`).catch(() => null);
    if (!answer?.ok || user.value !== asked) return;
    const found = await answer.json();
    list.replaceChildren(...found.map(({key, words}) => new Option(words, key)));
  });

  user?.addEventListener("change", () => user.value && rankSoon());
}
