"""Rules: what a user wants done, and when. Pure: text and facts in, decisions out; nothing here does I/O but
reading the package's own built-in rules.

    text ─► documents.parse ─► loading ─► reading ─► RuleSet ─► compile ─► decide ─► Outcome
            values, places     sections,  conditions,           index      facts     decisions, reasons
                               instances  actions

    kinds       values with units: sizes, durations, percents, rates, times of day
    catalogue   the properties that conditions ask for: kind, words, where each comes from
    facts       what is known at one decision, typed by the catalogue
    operators   what a condition compares, and for which kinds; text matching in linear time
    conditions  a condition tree that evaluates to true, false or not known
    expression  ``gpu_memory > 80 AND file_type == 'model'`` into the same tree
    actions     one frozen dataclass an action: its parameters, their kinds, ranges and defaults
    document    pydantic models of the sections of a file
    reading     raw values into models, conditions and actions; every problem with its place
    layers      files on top of one another: what a later one changes of an earlier one
    templates   parameters put into rules; the built-in rules
    loading     which rules are active, with which parameters and under which conditions
    ruleset     the rules that are active, as values
    lookup      tests that are looked up instead of asked
    compile     active rules into an index that finds the few rules that can match
    decide      weights, thresholds, conflicts, cool-down: which rule decides what
    explain     the same in words, rule by rule
    reference   the catalogues as Markdown

``loading.load(documents)`` gives a ``RuleSet``, ``decide.Engine(rules).decide(facts)`` an ``Outcome``.
"""
