// The mock interview and the drill, in the page. The cards are the page's own: a heading that asks, and the fold under it.
// Grades stay in this browser. Nothing is sent.
"use strict";

(() => {
    const SECONDS = {"warm-up": 45, standard: 75, hard: 120} // what an answer may take, thinking included
    const GRADES = ["I had it", "partly", "not yet"]
    const COUNTS = [4, 8, 12]
    const HEADINGS = "h1, h2, h3, h4, h5, h6"
    const place = document.querySelector("[data-interview]")
    const cards = readCards()
    if (!place || cards.length < 2) return

    // ---- the cards ----

    function readCards() {
        const found = []
        for (const heading of document.querySelectorAll("article h3, article h4")) {
            const under = []
            for (let next = heading.nextElementSibling; next && !next.matches(HEADINGS); next = next.nextElementSibling) under.push(next)
            const folds = under.filter(element => element.matches("details:not(.guess, .code)"))
            if (folds.length !== 1 || !/answer/i.test(folds[0].querySelector("summary")?.textContent || "")) continue
            const text = under.filter(element => element.tagName === "P").map(element => element.textContent).join(" ")
            const level = Object.keys(SECONDS).find(one => text.toLowerCase().includes(one)) || "standard"
            let group = heading.previousElementSibling
            while (group && group.tagName !== "H2") group = group.previousElementSibling
            const follow = [...folds[0].querySelectorAll("p")].find(p => /^\s*Follow-up/i.test(p.textContent))?.querySelector("a[href^='#']")
            found.push({
                question: heading.textContent.trim(),
                id: heading.id,
                group: group ? group.textContent.trim() : "",
                level,
                answer: [...folds[0].children].filter(child => child.tagName !== "SUMMARY"),
                follow: follow ? decodeURIComponent(follow.hash.slice(1)) : "",
            })
        }
        return found
    }

    const shuffled = list => {
        const all = [...list]
        for (let at = all.length - 1; at > 0; at--) {
            const other = Math.floor(Math.random() * (at + 1));
            [all[at], all[other]] = [all[other], all[at]]
        }
        return all
    }

    // Different cards, the groups in turn, each group shuffled.
    function draw(level, count) {
        const names = shuffled(new Set(cards.map(card => card.group)))
        const decks = names.map(name => shuffled(cards.filter(card => card.group === name && (!level || card.level === level))))
        const drawn = []
        for (let turn = 0; decks.some(deck => deck[turn]); turn++) drawn.push(...decks.map(deck => deck[turn]).filter(Boolean))
        return drawn.slice(0, count)
    }

    // ---- grades, kept in this browser ----

    const KEY = "interview grades"
    let grades = {}
    try { grades = JSON.parse(localStorage.getItem(KEY)) || {} } catch { /* for this visit only */ }
    function keep(card, grade) {
        grades[card.id] = grade
        try { localStorage.setItem(KEY, JSON.stringify(grades)) } catch { /* for this visit only */ }
    }
    const weak = () => cards.filter(card => grades[card.id] > 0).sort((a, b) => grades[b.id] - grades[a.id])

    // ---- what it looks like ----

    const box = document.createElement("section")
    box.className = "interview"
    box.setAttribute("aria-label", "Mock interview")
    box.innerHTML = `
        <div class="row choose">
            <label>Level <select class="level"><option value="">all levels</option></select></label>
            <label>Length <select class="count"></select></label>
            <button type="button" class="start">Start</button>
            <button type="button" class="drill"></button>
        </div>
        <div class="asked" aria-live="polite"><p>Choose, press Start, and answer aloud. The clock starts with the question.</p></div>
        <div class="clock" hidden><span class="time" role="timer" aria-label="Time for this answer"></span><span class="track"><span></span></span></div>
        <div class="row act"><button type="button" class="open" disabled>Show the answer</button></div>
        <div class="answer" aria-live="polite"></div>
        <div class="row grades" role="group" aria-label="How was yours?"></div>`
    const part = name => box.querySelector("." + name)
    for (const level of Object.keys(SECONDS)) if (cards.some(card => card.level === level)) part("level").add(new Option(level, level))
    for (const count of COUNTS) part("count").add(new Option(`${count} questions`, count, count === 8, count === 8))
    GRADES.forEach((words, grade) => {
        const button = document.createElement("button")
        button.type = "button"
        button.textContent = words
        button.disabled = true
        button.addEventListener("click", () => give(grade))
        part("grades").append(button)
    })
    part("start").addEventListener("click", () => begin(draw(part("level").value, Number(part("count").value)), false))
    part("drill").addEventListener("click", () => begin(weak(), true))
    part("open").addEventListener("click", open)
    place.replaceChildren(box)
    countWeak()

    function countWeak() {
        const number = weak().length
        part("drill").textContent = number === 1 ? "Drill the weak one" : `Drill the ${number} weak ones`
        part("drill").hidden = !number
    }

    // ---- an interview ----

    let run = null
    const minutes = seconds => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`
    const element = (tag, words, kind = "") => Object.assign(document.createElement(tag), {textContent: words, className: kind})

    function begin(toCome, drill) {
        clearInterval(run?.ticking)
        run = {toCome, drill, count: toCome.length, graded: [], card: null}
        part("start").textContent = "Start again"
        ask()
    }

    function ask() {
        run.card = run.toCome.shift()
        run.shown = false
        part("answer").replaceChildren()
        part("clock").hidden = !run.card
        part("open").disabled = !run.card
        for (const button of part("grades").children) button.disabled = true
        if (!run.card) return review()
        const {question, group, level} = run.card
        const where = [`${run.graded.length + 1} of ${run.count}`, group, level]
        if (run.following) where.push("follow-up")
        part("asked").replaceChildren(element("p", where.filter(Boolean).join(" · "), "where"), element("p", question, "question"))
        run.started = performance.now()
        run.ticking = setInterval(tick, 250)
        tick()
        part("open").focus()
    }

    function tick() {
        const seconds = (performance.now() - run.started) / 1000, wanted = SECONDS[run.card.level]
        part("time").textContent = `${minutes(seconds)} of ${minutes(wanted)}`
        part("track").firstElementChild.style.width = `${Math.min(100, 100 * seconds / wanted)}%`
        part("clock").classList.toggle("late", seconds > wanted)
        run.seconds = seconds
    }

    function open() {
        if (!run?.card || run.shown) return
        run.shown = true
        clearInterval(run.ticking)
        part("open").disabled = true
        part("answer").replaceChildren(...run.card.answer.map(one => one.cloneNode(true)))
        for (const copy of part("answer").querySelectorAll("[id]")) copy.removeAttribute("id")
        for (const button of part("grades").children) button.disabled = false
        part("grades").firstElementChild.focus()
    }

    // Who had it is asked the card's follow-up next. In a drill, a card comes back until it was had.
    function give(grade) {
        const {card} = run
        keep(card, grade)
        run.graded.push({card, grade, late: run.seconds > SECONDS[card.level]})
        run.following = false
        const deeper = cards.find(one => one.id === card.follow)
        if (run.drill) {
            if (grade) { run.toCome.push(card); run.count++ }
        } else if (!grade && run.toCome.length && deeper && !run.graded.some(one => one.card === deeper)) {
            const at = run.toCome.indexOf(deeper)
            run.toCome.splice(at < 0 ? -1 : at, 1)
            run.toCome.unshift(deeper)
            run.following = true
        }
        countWeak()
        ask()
    }

    function review() {
        const counts = GRADES.map((words, grade) => `${words}: ${run.graded.filter(one => one.grade === grade).length}`).join(", ")
        const missed = run.drill ? [] : run.graded.filter(one => one.grade).sort((a, b) => b.grade - a.grade)
        const late = run.graded.filter(one => one.late)
        part("asked").replaceChildren(element("p", "That was it.", "question"), element("p", `${counts}.`))
        const list = (words, rows) => {
            const items = element("ul", "")
            for (const {card, grade} of rows) {
                const item = element("li", "")
                item.append(Object.assign(element("a", card.question), {href: "#" + encodeURIComponent(card.id)}), ` (${GRADES[grade]})`)
                items.append(item)
            }
            part("answer").append(element("p", words), items)
        }
        if (missed.length) list("To review:", missed)
        else if (!run.drill) part("answer").append(element("p", "Nothing to review. Take a harder level."))
        if (late.length) list("Over time:", late)
        ;(missed.length && !part("drill").hidden ? part("drill") : part("start")).focus()
    }
})()
