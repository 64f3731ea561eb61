// Before the first paint: the look that was chosen last time, else the system's.
const chosen = localStorage.getItem("headword-theme");
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
