"""Words the demo's questions are made of. Short lists: every word occurs often enough to be learned in a minute."""

FIRST_NAMES = (
    "Alice", "Ben", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karin", "Leo",
    "Maria", "Nadia", "Oscar", "Paula", "Quinn", "Rosa", "Simon", "Tara", "Umar", "Vera", "Walter", "Yusuf",
)  # fmt: skip
LAST_NAMES = (
    "Adams", "Brown", "Costa", "Dunn", "Evans", "Fischer", "Gomez", "Hill", "Ito", "Jensen", "Kim", "Lopez",
    "Moore", "Novak", "Olsen", "Park", "Reed", "Silva", "Turner", "Usman", "Vogel", "Wood", "Young", "Zhang",
)  # fmt: skip
ITEMS = (
    "apple", "basket", "candle", "desk", "engine", "flower", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orange", "pencil", "quilt", "ribbon", "saddle", "table", "umbrella", "violin",
    "window", "zebra",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
DAYS_PER_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days of each month, February short: the demo never asks for a leap day."""
MAIL_DOMAINS = ("example.com", "example.org", "example.net")
"""Domains that RFC 2606 keeps for examples."""
UNITS = (
    ("metres", "centimetres", 100),
    ("kilometres", "metres", 1000),
    ("centimetres", "millimetres", 10),
    ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000),
    ("euros", "cents", 100),
)
"""(larger unit, smaller unit, how many of the smaller make one of the larger)."""
SPANISH_NOUNS = (
    ("book", "el libro"), ("dog", "el perro"), ("car", "el coche"), ("hat", "el sombrero"), ("shoe", "el zapato"),
    ("boat", "el barco"), ("train", "el tren"), ("cup", "el vaso"), ("coat", "el abrigo"), ("bread", "el pan"),
    ("table", "la mesa"), ("house", "la casa"), ("door", "la puerta"), ("chair", "la silla"),
    ("window", "la ventana"), ("shirt", "la camisa"), ("bed", "la cama"), ("bottle", "la botella"),
    ("apple", "la manzana"), ("street", "la calle"),
)  # fmt: skip
"""(English noun, Spanish noun with the article of its gender)."""
SPANISH_ADJECTIVES = (
    ("red", "rojo", "roja"), ("white", "blanco", "blanca"), ("black", "negro", "negra"),
    ("yellow", "amarillo", "amarilla"), ("green", "verde", "verde"), ("blue", "azul", "azul"),
    ("small", "pequeño", "pequeña"), ("clean", "limpio", "limpia"), ("cheap", "barato", "barata"),
    ("expensive", "caro", "cara"), ("new", "nuevo", "nueva"), ("broken", "roto", "rota"),
)  # fmt: skip
"""(English adjective, Spanish masculine, Spanish feminine)."""
NUMBERS_BELOW_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
