// Before anything is drawn: a page that flashes white at night is no friend.
const theme = localStorage.getItem("worker.theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
