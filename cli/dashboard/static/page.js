// Requests a ranking without reloading the page, and suggests users. Without scripts the form reloads the page.
const form = document.getElementById("try");

if (form) {
  const result = document.getElementById("result");
  const announcement = document.getElementById("announcement");
  const user = document.getElementById("user");
  const list = document.getElementById("users");
  let request = null;
  let timer = 0;

  const rank = async () => {
    clearTimeout(timer);
    if (!form.reportValidity()) return;
    request?.abort();
    const current = (request = new AbortController());
    result.setAttribute("aria-busy", "true");
    let text;
    try {
      const answer = await fetch(form.action, {
        method: "POST", body: new FormData(form), headers: {"x-fragment": "1"}, signal: current.signal,
      });
      text = await answer.text();
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    } catch (error) {
      if (current.signal.aborted) return;
      text = null;
    }
    if (text === null) {
      const down = document.createElement("div");
      down.className = "down";
      down.setAttribute("role", "alert");
      down.textContent = "No ranking: the dashboard's server does not answer. Start it again: personalization dashboard";
      result.replaceChildren(down);
    } else {
      result.innerHTML = text;
    }
    result.removeAttribute("aria-busy");
    announcement.textContent = result.querySelector(".summary")?.textContent ?? "";
  };

  // Wait until typing pauses, so that several key presses cause one ranking.
  const rankSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(rank, 250);
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    rank();
  });

  form.addEventListener("input", (event) => {
    if (event.target.classList.contains("context") && (!user || user.value)) rankSoon();
  });

  user?.addEventListener("input", async () => {
    const prefix = user.value;
    const answer = await fetch(`/users?q=${encodeURIComponent(prefix)}`).catch(() => null);
    if (!answer?.ok || user.value !== prefix) return;
    const users = await answer.json();
    list.replaceChildren(...users.map(({key, features}) => new Option(features, key)));
  });

  user?.addEventListener("change", () => user.value && rankSoon());
}
