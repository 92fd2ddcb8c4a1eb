// The mock interview and the drill, in the page: in the notebook's output and on the site. Nothing is sent.
// A card has `question`, `group` and `level` as text, `answer` as elements, and an `id` by which another card's `follow`
// names it. The review shows its `links`, an element, or leads to its `href`.
function mockInterview(place, cards) {
    const SECONDS = {"warm-up": 45, standard: 75, hard: 120} // what an answer may take, thinking included
    const GRADES = ["I had it", "partly", "not yet"]
    const COUNTS = [4, 8, 12]

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
        run.away = 0
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
        run.away = box.isConnected ? 0 : run.away + 1 // Jupyter takes outputs out of the page, for a while or for good
        if (run.away > 2400) clearInterval(run.ticking)
    }

    function open() {
        if (!run?.card || run.shown) return
        run.shown = true
        tick()
        clearInterval(run.ticking)
        part("open").disabled = true
        part("answer").replaceChildren(...run.card.answer)
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
        const list = (words, rows, links) => {
            const items = element("ul", "")
            for (const {card, grade} of rows) {
                const item = element("li", "")
                const title = card.href ? Object.assign(element("a", card.question), {href: card.href}) : element("b", card.question)
                item.append(title, ` (${GRADES[grade]})`)
                if (links && card.links) item.append(card.links)
                items.append(item)
            }
            part("answer").append(element("p", words), items)
        }
        if (missed.length) list("To review:", missed, true)
        else if (!run.drill) part("answer").append(element("p", "Nothing to review. Take a harder level."))
        if (late.length) list("Over time:", late, false)
        ;(missed.length && !part("drill").hidden ? part("drill") : part("start")).focus()
    }
}
