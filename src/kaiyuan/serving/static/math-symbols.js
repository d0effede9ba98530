// TeX names and the characters that they stand for.

const table = (text) => new Map(text.trim().split(/\s+/).map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]));

/** Letters: shown in italics, capitals of Greek upright. */
export const LETTERS = table(`
  alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ mu=μ nu=ν xi=ξ
  omicron=ο pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω
  Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω
  ell=ℓ hbar=ℏ imath=ı jmath=ȷ wp=℘ Re=ℜ Im=ℑ aleph=ℵ beth=ℶ partial=∂ nabla=∇ infty=∞ emptyset=∅ varnothing=∅ forall=∀ exists=∃
  nexists=∄ top=⊤ bot=⊥ angle=∠ triangle=△ square=□ Box=□ blacksquare=■ bigstar=★ clubsuit=♣ diamondsuit=♢ heartsuit=♡ spadesuit=♠
  degree=° prime=′ dagger=† ddagger=‡ S=§ P=¶ checkmark=✓ complement=∁ eth=ð mho=℧ hslash=ℏ qed=∎ flat=♭ sharp=♯ natural=♮
`);

/** Operators, relations and arrows: the browser's dictionary knows the spaces around them. */
export const OPERATORS = table(`
  pm=± mp=∓ times=× div=÷ cdot=⋅ ast=∗ star=⋆ circ=∘ bullet=∙ oplus=⊕ ominus=⊖ otimes=⊗ oslash=⊘ odot=⊙ wedge=∧ land=∧ vee=∨ lor=∨
  cap=∩ cup=∪ sqcap=⊓ sqcup=⊔ uplus=⊎ setminus=∖ smallsetminus=∖ wr=≀ amalg=⨿ diamond=⋄ ltimes=⋉ rtimes=⋊ bigtriangleup=△ triangleleft=◁ triangleright=▷
  leq=≤ le=≤ geq=≥ ge=≥ neq=≠ ne=≠ ll=≪ gg=≫ equiv=≡ sim=∼ simeq=≃ cong=≅ approx=≈ propto=∝ doteq=≐ asymp=≍ prec=≺ succ=≻ preceq=⪯ succeq=⪰
  leqslant=⩽ geqslant=⩾ lesssim=≲ gtrsim=≳ triangleq=≜ coloneqq=≔ models=⊨ vdash=⊢ dashv=⊣ vDash=⊨ Vdash=⊩ perp=⊥ parallel=∥ nparallel=∦ mid=∣ nmid=∤ bowtie=⋈
  in=∈ notin=∉ ni=∋ subset=⊂ supset=⊃ subseteq=⊆ supseteq=⊇ subsetneq=⊊ supsetneq=⊋ nsubseteq=⊈ sqsubseteq=⊑ sqsupseteq=⊒
  to=→ rightarrow=→ gets=← leftarrow=← leftrightarrow=↔ Rightarrow=⇒ Leftarrow=⇐ Leftrightarrow=⇔ implies=⟹ impliedby=⟸ iff=⟺ mapsto=↦ longmapsto=⟼
  longrightarrow=⟶ longleftarrow=⟵ longleftrightarrow=⟷ Longrightarrow=⟹ Longleftarrow=⟸ Longleftrightarrow=⟺ uparrow=↑ downarrow=↓ updownarrow=↕ Uparrow=⇑ Downarrow=⇓
  nearrow=↗ searrow=↘ swarrow=↙ nwarrow=↖ hookrightarrow=↪ hookleftarrow=↩ rightharpoonup=⇀ rightharpoondown=⇁ leftharpoonup=↼ leftharpoondown=↽
  rightleftharpoons=⇌ rightsquigarrow=⇝ leadsto=⇝ twoheadrightarrow=↠ upharpoonright=↾ therefore=∴ because=∵ neg=¬ lnot=¬ colon=:
`);

/** Dots and the like: no operator's space around them. */
export const DOTS = table("ldots=… dots=… dotsc=… cdots=⋯ dotsb=⋯ dotsm=⋯ dotsi=⋯ vdots=⋮ ddots=⋱ backslash=\\ _=_ %=% #=# &=& $=$");

/** Large operators. Those of LIMITS have their bounds above and below where the formula stands alone. */
export const LARGE = table(`
  sum=∑ prod=∏ coprod=∐ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigodot=⨀ bigvee=⋁ bigwedge=⋀ bigsqcup=⨆ biguplus=⨄
  int=∫ iint=∬ iiint=∭ oint=∮ oiint=∯
`);
export const INTEGRALS = new Set(["int", "iint", "iiint", "oint", "oiint"]);

/** Functions, shown upright; those of LIMITS take bounds below. */
export const FUNCTIONS = new Set(
  ("arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max min Pr sec sin sinh sup tan tanh").split(" "),
);
export const LIMITS = new Set("det gcd inf lim liminf limsup max min Pr sup".split(" "));
export const SPACED_NAMES = new Map([["liminf", "lim inf"], ["limsup", "lim sup"]]);

export const DELIMITERS = table(`
  lbrace={ rbrace=} {={ }=} langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ vert=| lvert=| rvert=| Vert=‖ lVert=‖ rVert=‖ |=‖
  lbrack=[ rbrack=] lgroup=⟮ rgroup=⟯ ulcorner=⌜ urcorner=⌝
`);
export const OPENING = new Set("( [ { ⟨ ⌊ ⌈ ⟮ ⌜".split(" "));
export const CLOSING = new Set(") ] } ⟩ ⌋ ⌉ ⟯ ⌝".split(" "));

/** Above the letter: [character, whether it stretches]. */
export const ACCENTS = new Map([
  ["hat", ["^", false]], ["widehat", ["^", true]], ["tilde", ["~", false]], ["widetilde", ["~", true]], ["bar", ["¯", false]],
  ["overline", ["¯", true]], ["vec", ["→", false]], ["overrightarrow", ["→", true]], ["overleftarrow", ["←", true]], ["dot", ["˙", false]],
  ["ddot", ["¨", false]], ["check", ["ˇ", false]], ["breve", ["˘", false]], ["acute", ["´", false]], ["grave", ["`", false]],
  ["mathring", ["˚", false]], ["overbrace", ["⏞", true]], ["overbracket", ["⎴", true]],
]);
export const UNDER_ACCENTS = new Map([["underline", "_"], ["underbrace", "⏟"], ["underbracket", "⎵"], ["underrightarrow", "→"]]);

export const ARROWS = new Map([
  ["xrightarrow", "→"], ["xleftarrow", "←"], ["xRightarrow", "⇒"], ["xLeftarrow", "⇐"], ["xleftrightarrow", "↔"], ["xmapsto", "↦"],
  ["xlongequal", "="], ["xrightleftharpoons", "⇌"],
]);

/** Widths in em. */
export const SPACES = new Map([
  [",", 0.1667], ["thinspace", 0.1667], [":", 0.2222], [">", 0.2222], ["medspace", 0.2222], [";", 0.2778], ["thickspace", 0.2778], ["!", -0.1667],
  ["negthinspace", -0.1667], [" ", 0.25], ["~", 0.25], ["enspace", 0.5], ["quad", 1], ["qquad", 2],
]);

export const NEGATED = new Map([
  ["=", "≠"], ["∈", "∉"], ["∋", "∌"], ["≡", "≢"], ["∼", "≁"], ["≈", "≉"], ["≅", "≇"], ["<", "≮"], [">", "≯"], ["≤", "≰"], ["≥", "≱"], ["⊂", "⊄"],
  ["⊃", "⊅"], ["⊆", "⊈"], ["⊇", "⊉"], ["∃", "∄"], ["∣", "∤"], ["∥", "∦"], ["→", "↛"], ["⇒", "⇏"], ["⊢", "⊬"], ["⊨", "⊭"],
]);

/** Alphabets: [first capital, first small letter, first digit], and letters that Unicode has elsewhere. */
const ALPHABETS = {
  mathbb: [0x1d538, 0x1d552, 0x1d7d8, "C=ℂ H=ℍ N=ℕ P=ℙ Q=ℚ R=ℝ Z=ℤ"],
  mathcal: [0x1d49c, 0x1d4b6, 0, "B=ℬ E=ℰ F=ℱ H=ℋ I=ℐ L=ℒ M=ℳ R=ℛ e=ℯ g=ℊ o=ℴ"],
  mathfrak: [0x1d504, 0x1d51e, 0, "C=ℭ H=ℌ I=ℑ R=ℜ Z=ℨ"],
  mathbf: [0x1d400, 0x1d41a, 0x1d7ce, ""],
  boldsymbol: [0x1d468, 0x1d482, 0x1d7ce, ""],
  mathsf: [0x1d5a0, 0x1d5ba, 0x1d7e2, ""],
  mathtt: [0x1d670, 0x1d68a, 0x1d7f6, ""],
};
const SAME_ALPHABET = {
  Bbb: "mathbb", mathscr: "mathcal", cal: "mathcal", frak: "mathfrak", bf: "mathbf", bm: "boldsymbol", pmb: "boldsymbol", textbf: "mathbf",
  symbf: "mathbf", sf: "mathsf", tt: "mathtt",
};
const BOLD_GREEK = [..."ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡϴΣΤΥΦΧΨΩ∇αβγδεζηθικλμνξοπρςστυφχψω∂ϵϑϰϕϱϖ"];
const EXCEPTIONS = new Map(Object.entries(ALPHABETS).map(([name, [, , , pairs]]) => [name, table(pairs)]));

export function isAlphabet(name) {
  return name in ALPHABETS || name in SAME_ALPHABET || name === "mathrm" || name === "rm" || name === "mathit" || name === "mathnormal";
}

/** `char` in the alphabet of this name, or as it is where the alphabet lacks it. */
export function inAlphabet(char, name) {
  const full = SAME_ALPHABET[name] ?? name;
  if (!(full in ALPHABETS)) return char;
  const other = EXCEPTIONS.get(full).get(char);
  if (other) return other;
  const [capitals, smalls, digits] = ALPHABETS[full];
  const code = char.codePointAt(0);
  if (char >= "A" && char <= "Z") return String.fromCodePoint(capitals + code - 65);
  if (char >= "a" && char <= "z") return String.fromCodePoint(smalls + code - 97);
  if (char >= "0" && char <= "9" && digits) return String.fromCodePoint(digits + code - 48);
  const greek = BOLD_GREEK.indexOf(char);
  if (greek < 0 || (full !== "mathbf" && full !== "boldsymbol")) return char;
  return String.fromCodePoint((full === "mathbf" ? 0x1d6a8 : 0x1d71c) + greek);
}
