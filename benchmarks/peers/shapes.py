"""The nested parts of a campaign in events and answers, as pydantic models; only for the peers."""

from datetime import datetime, time
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

Status = Literal["draft", "running", "paused", "done"]
Channel = Literal["call", "whatsapp"]


class ContactObjective(BaseModel):
    """A goal reached by contacts."""

    type: Literal["contact"] = "contact"
    channels: list[Channel] | None = None
    min_count: int = 1


class EmailObjective(BaseModel):
    """A goal reached by e-mail."""

    type: Literal["email"] = "email"
    min_count: int = 1


class AiObjective(BaseModel):
    """A goal reached by an AI's judgement of the conversation."""

    type: Literal["ai"] = "ai"
    label_in: list[Literal["positive", "negative", "neutral"]] | None = None
    min_score: float = 0.0


Objective = Annotated[ContactObjective | EmailObjective | AiObjective, Field(discriminator="type")]


class CampaignGoalSpec(BaseModel):
    """The objectives that define the goal."""

    objectives: list[Objective] | None = None


class CampaignCallWindow(BaseModel):
    """When calls may be made."""

    start: time = time(9)
    end: time = time(19)
    weekdays: list[int] | None = None


class CampaignStageOut(BaseModel):
    """One column of the campaign's board."""

    id: UUID
    campaign_id: UUID
    key: str
    name: str
    position: int
    semantic_type: Literal["new", "active", "won", "lost"]
    color: str | None = None
    is_system: bool = False
    created_at: datetime
    updated_at: datetime
