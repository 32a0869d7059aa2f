// The search page: a chapter is found by its plain name, and what is quoted of a page can be read.
//
// Sphinx's own script scores words. "MADE" is one on many pages, so that the chapter that teaches it
// would be lost among them. The names come with this script's tag.

const tag = document.currentScript;
const NAMES = JSON.parse(tag.dataset.gdmNames);
const NAMED = 200; // more than any score of Sphinx's own
const PARTLY = 30;

/** Letters and digits of a name in lower case; hyphens, spaces and the two signs for micro alike. */
const bare = (text) =>
  text
    .normalize("NFKC") // the sign for micro becomes the Greek letter
    .toLowerCase()
    .replaceAll("μ", "mu")
    .replace(/\+\+/g, " pp ")
    .replace(/[^\p{Letter}\p{Number}]+/gu, " ")
    .trim();

const query = bare(new URLSearchParams(location.search).get("q") || "");

Scorer.score = ([page, , anchor, , score]) => {
  if (anchor || !query) return score;
  const names = (NAMES[page] || []).map(bare);
  if (names.includes(query)) return score + NAMED;
  return names.some((name) => ` ${name} `.includes(` ${query} `)) ? score + PARTLY : score;
};

const SYMBOLS = {
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", varepsilon: "ε", zeta: "ζ", eta: "η",
  theta: "θ", kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π", rho: "ρ", sigma: "σ",
  tau: "τ", phi: "φ", varphi: "φ", chi: "χ", psi: "ψ", omega: "ω", Delta: "Δ", Sigma: "Σ", Phi: "Φ",
  times: "×", cdot: "·", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠", approx: "≈",
  sim: "~", to: "→", infty: "∞", in: "∈", mid: "|", ell: "ℓ", sum: "Σ", log: "log", exp: "exp",
  ldots: "…", dots: "…", cdots: "…", pm: "±", top: "ᵀ",
};
const LONGEST = 24; // of a formula that a line of text can take in

// Commands that can go without a loss of meaning.
const STYLE = /^(math(bf|rm|cal|bb|it|sf)|boldsymbol|bm|text|operatorname|left|right|[bB]igg?|q?quad|prime)$/;

/** A short formula of signs as text; one that is longer, or has fractions and the like, is left out. */
function readable(formula) {
  let known = true;
  const text = formula
    .replace(/^\\[([]|\\[)\]]$/g, "")
    .replace(/\\([A-Za-z]+)\s*/g, (_, name) => {
      known &&= name in SYMBOLS || STYLE.test(name);
      return SYMBOLS[name] ?? "";
    })
    .replace(/\\./g, " ")
    .replace(/[{}]/g, "")
    .replace(/\s+/g, " ")
    .trim();
  return known && text.length <= LONGEST ? text : "…";
}

const NOT_PROSE = ".headerlink, script, style, div.math, .gdm-facts, .cell_input, figure, button";

Search.htmlToText = (source, anchor) => {
  const page = new DOMParser().parseFromString(source, "text/html");
  for (const part of page.querySelectorAll(NOT_PROSE)) part.remove();
  for (const formula of page.querySelectorAll(".math"))
    formula.replaceWith(readable(formula.textContent.trim()));
  const article = page.querySelector('[role="main"] article') || page.querySelector('[role="main"]');
  const place = anchor && article?.querySelector(`#${CSS.escape(anchor.slice(1))}`);
  return ((place || article)?.textContent || "").replace(/\s+/g, " ");
};
