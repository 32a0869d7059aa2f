// On a page that is opened as a file, says beneath each widget why it is still and what to do. The
// host can't: it is a module, and browsers load none for such a page.

if (location.protocol === "file:") {
  const root = document.documentElement.dataset.content_root || "./";
  const path = (address) => decodeURIComponent(new URL(address, location.href).pathname);
  const folder = path(root).replace(/^\/(?=[A-Za-z]:)/, "").replace(/\/$/, "");
  const page = location.pathname.slice(new URL(root, location.href).pathname.length);
  for (const line of document.querySelectorAll("figure[data-gdm-alone=true] > .gdm-status")) {
    const command = document.createElement("code");
    command.textContent = `python -m http.server -d "${folder}"`;
    const address = `http://localhost:8000/${page}`;
    const link = document.createElement("a");
    link.href = address;
    link.textContent = address;
    line.replaceChildren(
      "The last picture drawn: it can't move, since this page is opened as a file, and a browser lets " +
        "no file load another. Run ",
      command,
      " and open ",
      link,
      ".",
    );
  }
}
