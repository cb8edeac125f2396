"""Five kinds of work: four that repeat what is in the prompt, and free chat. All texts are our own."""

import itertools
from dataclasses import dataclass

PASSAGES = (
    "The harbour master keeps a green book in the upper drawer of the desk. Every ship that comes in before noon is "
    "written on the left page, and every ship that leaves after noon is written on the right page. When a ship stays "
    "for more than three nights, the harbour master draws a small anchor beside its name. Last winter there were so "
    "many anchors that the book looked like a picture of the bay. The captains like to look at it while they wait for "
    "the tide, and some of them bring a pencil of their own.",
    "A kettle is a simple machine, but it hides a good lesson about waiting. The water does nothing for a long while, "
    "then it sings, and only then it boils. People who look at it all the time believe that it is slow. People who "
    "read a page of a book in the meantime believe that it is fast. The water takes four minutes in both cases. What "
    "changes is the number of times that somebody asks whether it is ready.",
    "Our town has two bakeries. The older one stands beside the church and opens at five in the morning. The younger "
    "one stands beside the school and opens at seven. The older one sells dark bread, rolls with seeds, and a plum "
    "cake on Fridays. The younger one sells white bread, rolls with cheese, and a lemon cake on Sundays. When the "
    "river rose in April, both bakeries baked in the older one's kitchen for nine days, and for nine days there were "
    "dark rolls with cheese.",
    "The telescope on the hill was built by three sisters in the year of the long drought. The eldest ground the "
    "mirror, the second made the tube out of oak staves, and the youngest wrote down what they saw. In the first "
    "summer they counted two hundred and twelve craters on the moon. In the second summer they followed a comet for "
    "forty nights. The notebook with the drawings of the comet is kept in the library, in a glass case near the door.",
)

RECORDS = (
    "Order 10482: customer Ada Brook, city Leeds, item oak shelf, quantity 2, price 84.50, status shipped. "
    "Order 10483: customer Tom Marsh, city York, item desk lamp, quantity 1, price 31.00, status pending. "
    "Order 10484: customer Ines Vale, city Hull, item oak shelf, quantity 4, price 169.00, status shipped. "
    "Order 10485: customer Carl Reed, city Leeds, item wool rug, quantity 1, price 120.00, status returned.",
    "Flight TF101 from Oslo to Rome departs 08:15, gate B4, on time. Flight TF102 from Rome to Oslo departs 12:40, "
    "gate A2, delayed. Flight TF205 from Oslo to Porto departs 09:30, gate B7, on time. Flight TF206 from Porto to "
    "Oslo departs 14:05, gate C1, cancelled.",
    "Sensor north-1 in room cellar read 11.5 degrees and 72 percent at 06:00. Sensor north-2 in room kitchen read 19.0 "
    "degrees and 48 percent at 06:00. Sensor south-1 in room studio read 17.5 degrees and 51 percent at 06:05. Sensor "
    "south-2 in room attic read 14.0 degrees and 63 percent at 06:05.",
    "Book: The Salt Road, author Mira Holt, year 1998, pages 312, shelf H4. Book: Nine Lanterns, author Jon Abbey, "
    "year 2004, pages 268, shelf A1. Book: A Quiet Engine, author Lena Frost, year 2011, pages 405, shelf F2. Book: "
    "Low Water, author Mira Holt, year 2015, pages 190, shelf H4.",
)

CODE = (
    "def total_price(items):\n    total = 0\n    for item in items:\n        price = item['price']\n        quantity = "
    "item['quantity']\n        total = total + price * quantity\n    return total\n\n\ndef total_weight(items):\n    "
    "total = 0\n    for item in items:\n        weight = item['weight']\n        quantity = item['quantity']\n        "
    "total = total + weight * quantity\n    return total\n",
    "class Temperature:\n    def __init__(self, degrees):\n        self.degrees = degrees\n\n    def "
    "to_fahrenheit(self):\n        return self.degrees * 9 / 5 + 32\n\n    def to_kelvin(self):\n        return "
    "self.degrees + 273.15\n\n    def is_freezing(self):\n        return self.degrees <= 0\n",
    "import csv\n\n\ndef read_rows(path):\n    rows = []\n    with open(path) as file:\n        reader = "
    "csv.DictReader(file)\n        for row in reader:\n            rows.append(row)\n    return rows\n\n\ndef "
    "write_rows(path, rows):\n    with open(path, 'w') as file:\n        writer = csv.DictWriter(file, "
    "fieldnames=rows[0].keys())\n        writer.writeheader()\n        for row in rows:\n            "
    "writer.writerow(row)\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        "
    "self.items.append(item)\n\n    def pop(self):\n        if not self.items:\n            raise IndexError('the "
    "stack is empty')\n        return self.items.pop()\n\n    def peek(self):\n        if not self.items:\n            "
    "raise IndexError('the stack is empty')\n        return self.items[-1]\n",
)

CHATS = (
    "Tell me a short story about a lighthouse keeper who finds a letter.",
    "What should I think about before I adopt a dog?",
    "Explain why the sky is blue to a child of eight.",
    "I have two weeks in Portugal in spring. What would you do there?",
    "How do I begin to learn the piano as an adult?",
    "Write a letter to a friend who moves to another country.",
    "What makes a good team, and how can one tell a bad one early?",
    "Describe a market in the morning with all five senses.",
)

_EDITS = ("Replace the word 'and' by '&'", "Put it into the present tense", "Correct all mistakes", "Mark each number")
_CODE_EDITS = (
    "Add a docstring to each function of",
    "Add type hints to",
    "Repeat, with comments,",
    "Rename nothing in",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: what is asked, how many tokens of an answer are wanted, and how they are drawn."""

    text: str
    tokens: int
    temperature: float
    seed: int


def _edit(number: int) -> str:
    passage = PASSAGES[number % len(PASSAGES)]
    edit = _EDITS[number // len(PASSAGES) % len(_EDITS)]
    return f"{edit} in the following text, and give the whole text back.\n\n{passage}"


def _extract(number: int) -> str:
    records = RECORDS[number % len(RECORDS)]
    first = records.split(",")[0].split(":")[0].split(" ")[0].lower()
    return f"Turn each {first} of this list into a JSON object, all of them in one array.\n\n{records}"


def _code(number: int) -> str:
    edit = _CODE_EDITS[number // len(CODE) % len(_CODE_EDITS)]
    return f"{edit} this code, and write all of it again:\n\n```python\n{CODE[number % len(CODE)]}```"


def _quote(number: int) -> str:
    return (
        "Sum up the following text. Quote the sentence that each point rests on, word by word.\n\n"
        f"{PASSAGES[number % len(PASSAGES)]} {PASSAGES[(number // len(PASSAGES) + number + 1) % len(PASSAGES)]}"
    )


def _chat(number: int) -> str:
    return CHATS[number % len(CHATS)]


KINDS = {"edit": _edit, "extract": _extract, "code": _code, "quote": _quote, "chat": _chat}
REPETITIVE = ("edit", "extract", "code", "quote")
TEMPERATURES = {"chat": 0.7}


_GOLDEN = 0.618034  # whose multiples are spread evenly


def asks(kind: str, count: int, tokens: int = 200, spread: float = 0.0) -> list[Ask]:
    """``count`` requests of a kind, always the same ones. Each differs from all others in its first words. They want
    ``tokens`` on average, more or less by a part of up to ``spread``."""
    make, temperature = KINDS[kind], TEMPERATURES.get(kind, 0.0)
    numbers = itertools.islice(itertools.count(), count)
    wanted = [round(tokens * (1 + spread * (2 * (n * _GOLDEN % 1) - 1))) for n in range(count)]
    return [Ask(f"Task {n + 1}. {make(n)}", wanted[n], temperature, seed=n) for n in numbers]
