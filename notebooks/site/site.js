// Every page: the theme's button, boxes that scroll reachable by keys, and the section in view marked in the contents.
"use strict";

(() => {
    const root = document.documentElement
    const button = document.querySelector("button.theme")
    const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark"
    const label = () => {
        button.textContent = dark() ? "Light" : "Dark"
        button.setAttribute("aria-label", `${button.textContent} colours`)
    }
    button.hidden = false
    button.addEventListener("click", () => {
        root.dataset.theme = dark() ? "light" : "dark"
        try { localStorage.setItem("theme", root.dataset.theme) } catch { /* for this page only */ }
        label()
    })
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label)
    label()

    // A box that scrolls can be reached by Tab, and says what it is; one that fits is no stop.
    const boxes = [...document.querySelectorAll("pre, .scroll, .formula, figure, .toylib-picture")]
    const names = {PRE: "Code", FIGURE: "Figure"}
    const reach = box => {
        const scrolls = box.scrollWidth > box.clientWidth + 1
        for (const [name, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", box.dataset.name || names[box.tagName] || (box.matches(".formula") ? "Formula" : "Figure")]]) {
            if (scrolls) box.setAttribute(name, value)
            else box.removeAttribute(name)
        }
    }
    const watch = new ResizeObserver(entries => entries.forEach(entry => reach(entry.target)))
    boxes.forEach(box => watch.observe(box))

    const links = new Map([...document.querySelectorAll(".contents ul a")].map(a => [decodeURIComponent(a.hash.slice(1)), a]))
    const mark = new IntersectionObserver(entries => {
        for (const entry of entries) {
            if (!entry.isIntersecting) continue
            links.forEach(link => link.classList.remove("now"))
            links.get(entry.target.id)?.classList.add("now")
        }
    }, {rootMargin: "0px 0px -70% 0px"})
    for (const heading of document.querySelectorAll("article > h2")) mark.observe(heading)
})()
