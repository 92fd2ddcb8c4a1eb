// Folds of the class "guess" become buttons. What follows a group, up to the next heading, opens after a guess or on
// "Show me". The page counts first guesses and remembers them in this browser alone.
"use strict";

(() => {
    const HEADING = /^H[1-6]$/
    const groups = []
    const kept = (() => {
        const key = "guesses " + location.pathname.split("/").pop()
        let all = {}
        try { all = JSON.parse(localStorage.getItem(key)) || {} } catch { /* nothing is kept then */ }
        const save = () => { try { localStorage.setItem(key, JSON.stringify(all)) } catch { /* nor here */ } }
        return {
            get: name => all[name],
            set: (name, value) => { all[name] = value; save() },
            clear: () => { all = {}; save() },
        }
    })()

    function score() {
        const guessed = groups.filter(group => group.guess !== null && group.guess !== undefined && group.guess >= 0)
        const right = guessed.filter(group => group.answers[group.guess].right).length
        const words = guessed.length ? `${right} of ${guessed.length} right` : ""
        const place = document.querySelector(".bar .score")
        if (place.textContent !== words) place.textContent = words
    }

    // The folds of one question: neighbours with nothing but space between them.
    function gather(first) {
        const folds = [first]
        while (folds.at(-1).nextElementSibling?.matches("details.guess")) folds.push(folds.at(-1).nextElementSibling)
        return folds
    }

    function wrap(box) {
        const after = document.createElement("div")
        after.className = "after-guess"
        while (box.nextElementSibling && !HEADING.test(box.nextElementSibling.tagName)) after.append(box.nextElementSibling)
        if (after.childElementCount) box.after(after)
        return after
    }

    function upgrade(folds, number) {
        const answers = folds.map(fold => {
            const body = [...fold.children].filter(child => child.tagName !== "SUMMARY")
            return {words: fold.querySelector("summary").innerHTML, body, right: /^\s*Right\b/.test(body[0]?.textContent || "")}
        })
        const box = document.createElement("div")
        box.className = "guess-box"
        box.setAttribute("role", "group")
        box.setAttribute("aria-label", `Your guess, question ${number + 1} on this page`)
        box.innerHTML = `<div class="choices"></div><div class="verdict" aria-live="polite"></div>`
        folds[0].before(box)
        folds.forEach(fold => fold.remove())
        const group = {box, answers, guess: null, name: String(number), after: wrap(box)}
        group.buttons = answers.map((answer, at) => {
            const button = document.createElement("button")
            button.type = "button"
            button.innerHTML = answer.words
            button.setAttribute("aria-pressed", "false")
            button.addEventListener("click", () => choose(group, at))
            return button
        })
        group.show = document.createElement("button")
        group.show.type = "button"
        group.show.className = "show-me"
        group.show.textContent = "Show me"
        group.show.addEventListener("click", () => choose(group, -1))
        box.querySelector(".choices").append(...group.buttons, group.show)
        group.after.hidden = true
        if ("onbeforematch" in group.after) {
            group.after.setAttribute("hidden", "until-found")
            group.after.addEventListener("beforematch", () => choose(group, -1))
        }
        return group
    }

    // The first choice counts; later ones only show what that answer says. -1 is "show me".
    function choose(group, at) {
        const first = group.guess === null
        if (first) {
            group.guess = at
            kept.set(group.name, at)
            group.show.hidden = true
            group.after.hidden = false
        }
        const shown = at < 0 ? group.answers.findIndex(answer => answer.right) : at
        group.buttons.forEach((button, number) => {
            const {right, words} = group.answers[number]
            button.setAttribute("aria-pressed", String(number === shown))
            if (right || number === shown) {
                button.className = right ? "right" : "wrong"
                button.innerHTML = `${right ? "✓" : "✗"} ${words}`
            }
        })
        const verdict = group.box.querySelector(".verdict")
        verdict.replaceChildren(...(group.answers[shown]?.body || []).map(element => element.cloneNode(true)))
        if (first && document.activeElement === group.show) group.buttons[Math.max(shown, 0)].focus()
        score()
    }

    document.querySelectorAll("details.guess").forEach(fold => {
        if (fold.isConnected) groups.push(upgrade(gather(fold), groups.length))
    })
    for (const group of groups) {
        const before = kept.get(group.name)
        if (Number.isInteger(before) && before < group.answers.length) choose(group, before)
    }
    if (groups.length) {
        const again = document.createElement("button")
        again.type = "button"
        again.className = "again"
        again.textContent = "Guess again from the start"
        again.addEventListener("click", () => { kept.clear(); location.hash = ""; location.reload() })
        document.querySelector("article").append(again)
    }
})()
