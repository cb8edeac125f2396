"""Common words: the texts of workloads are made of them."""

# Part of the workloads' definition: another list, or another order, would give other prompts.
WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company"),
    *("system", "program", "question", "work", "government", "number", "night", "point", "home", "water", "room"),
    *("mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word"),
    *("business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game"),
    *("line", "end", "member", "law", "car", "city", "community", "name", "president", "team"),
)
OPENING = "Write about this:"  # a prompt's first words
