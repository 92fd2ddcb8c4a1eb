// The cards of the mock interview are the page's own: a heading that asks, and the fold under it.
"use strict";

(() => {
    const HEADINGS = "h1, h2, h3, h4, h5, h6"
    const LEVELS = ["warm-up", "standard", "hard"]
    const place = document.querySelector("[data-interview]")
    const cards = []
    for (const heading of document.querySelectorAll("article h3, article h4")) {
        const under = []
        for (let next = heading.nextElementSibling; next && !next.matches(HEADINGS); next = next.nextElementSibling) under.push(next)
        const folds = under.filter(element => element.matches("details:not(.guess, .code)"))
        if (folds.length !== 1 || !/answer/i.test(folds[0].querySelector("summary")?.textContent || "")) continue
        const text = under.filter(element => element.tagName === "P").map(element => element.textContent).join(" ")
        let group = heading.previousElementSibling
        while (group && group.tagName !== "H2") group = group.previousElementSibling
        const follow = [...folds[0].querySelectorAll("p")].find(p => /^\s*Follow-up/i.test(p.textContent))?.querySelector("a[href^='#']")
        const answer = [...folds[0].children].filter(child => child.tagName !== "SUMMARY").map(child => child.cloneNode(true))
        for (const copy of answer) for (const one of [copy, ...copy.querySelectorAll("[id]")]) one.removeAttribute("id")
        cards.push({
            question: heading.textContent.trim(),
            id: heading.id,
            href: "#" + encodeURIComponent(heading.id),
            group: group ? group.textContent.trim() : "",
            level: LEVELS.find(one => text.toLowerCase().includes(one)) || "standard",
            answer,
            follow: follow ? decodeURIComponent(follow.hash.slice(1)) : "",
        })
    }
    if (place && cards.length > 1) mockInterview(place, cards)
})()
