"""Texts of the demo data set: campaign themes with goals, cities, agents, openings, objectives and stages."""

from typing import Any, Final

THEMES: Final[tuple[tuple[str, str], ...]] = (
    ("Black Friday 2025", "Tell loyal customers about the early sale and book a visit"),
    ("Café Niño: reactivación", "Invitar de nuevo a clientes que no han vuelto en seis meses"),
    ("Appointment reminder", "Confirm tomorrow's appointment or find a new date"),
    ("NPS survey", "Ask how likely they are to recommend us, and why"),
    ("Cart recovery", "Help with whatever kept them from checking out"),
    ("Öffnungszeiten im Sommer", "Über die neuen Öffnungszeiten informieren"),
    ("Welcome call", "Greet new customers and show them around"),
    ("Renewal 30 days ahead", "Renew before the contract ends"),
    ("Rentrée scolaire", "Présenter les offres de la rentrée"),
    ("Invoice overdue", "Agree on a date of payment, kindly"),
    ("Test drive follow-up", "Find out what speaks for or against buying"),
    ("Flu vaccination", "Offer a slot in the next two weeks"),
    ("Événement privé", "Inviter les meilleurs clients à la soirée"),
    ("Win-back 10% off", "Bring back who left, with 10% off_or_more"),
    ("Product recall", "Reach every owner and arrange the exchange"),
)

CITIES: Final[tuple[str, ...]] = (
    "Zürich",
    "São Paulo",
    "Bogotá",
    "London",
    "Kraków",
    "Málaga",
    "München",
    "Montréal",
    "Reykjavík",
    "Milano",
    "Göteborg",
    "İzmir",
    "Lyon",
    "Porto",
    "Αθήνα",
    "東京",
    "Dublin",
    "Wien",
    "Praha",
    "Valparaíso",
)

AGENTS: Final[tuple[str, ...]] = (
    "Ada Lovelace",
    "Grace Hopper",
    "José Martínez",
    "Zoë Müller",
    "Łukasz Nowak",
    "Chloé Dubois",
    "Søren Ångström",
    "Márta Kovács",
    "Priya Nair",
    "Kenji Sato",
)

OPENINGS: Final[tuple[str, ...]] = (
    "Hello, this is the shop you visited last week. Do you have a minute?",
    "¡Hola! Le llamamos de Café Niño. ¿Le va bien hablar ahora?",
    "Guten Tag, wir rufen wegen Ihrer Anfrage an. Passt es gerade?",
)

OBJECTIVES: Final[tuple[dict[str, Any], ...]] = (
    {"type": "contact", "channels": ["call", "whatsapp"], "min_count": 2},
    {"type": "email"},
    {"type": "ai", "label_in": ["positive"], "min_score": 0.7},
)

STAGES: Final[tuple[tuple[str, str, str], ...]] = (
    ("New", "new", "#8e9aaf"),
    ("In conversation", "active", "#3a86ff"),
    ("Won", "won", "#2a9d8f"),
    ("Lost", "lost", "#e76f51"),
)
