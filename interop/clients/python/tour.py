"""A tour with the client that openapi-python-client generates. Arguments: URL, pcCode, email, licence plate."""

import json
import sys
from datetime import UTC, datetime
from typing import Any

from visitor_service_client import Client
from visitor_service_client import models as m
from visitor_service_client.api.centers import centers_create
from visitor_service_client.api.checkins import checkins_create
from visitor_service_client.api.optins import optins_create
from visitor_service_client.api.parking import (
    credit_cards_create,
    parking_histories_create,
    parking_histories_summary,
    parkings_create,
    vehicles_create,
)
from visitor_service_client.api.points import (
    challenges_create,
    rankings_list,
    visitor_challenges_add_points,
    visitor_challenges_create,
)
from visitor_service_client.api.services import services_create
from visitor_service_client.api.visitors import external_ids_list, visitors_create, visitors_erase_by_analytics_id
from visitor_service_client.api.visits import visits_create


def main(url: str, pc_code: str, email: str, plate: str) -> list[Any]:
    client = Client(base_url=url)
    now = datetime.now(UTC)
    center = m.CenterNew(label="Les 4 Temps", country=m.CountryCode.FR, is_westfield=True, pc_code=pc_code)
    centers_create.sync(client=client, body=center)
    new_visitor = m.VisitorNew(
        first_name="Ada", last_name="Martin", email=email, gender=m.VisitorNewGender.F, country_code=m.CountryCode.FR,
        acquisition_pc_code=pc_code, timezone=None, optins=[],
    )  # fmt: skip
    visitor = visitors_create.sync(client=client, body=new_visitor).data
    visitor_id = visitor.visitor_id
    vehicles_create.sync(visitor_id, client=client, body=m.VehicleFields(license_plate=plate))
    visit = m.VisitNew(pc_code=pc_code, license_plate=plate)
    reported = visits_create.sync(m.VisitsCreateVisitType.ENTRY, client=client, body=visit)
    assert reported.visitor_id == visitor_id
    new_service = m.ServiceNew(
        pc_code=pc_code, name="Cloakroom", category="comfort", use_rate="free", days_of_use=[1, 2], color_code="#336699"
    )
    service = services_create.sync(client=client, body=new_service).data
    checkin = m.CheckinNew(pc_code=pc_code, service_id=service.service_id, origin=m.CheckinNewOrigin.PARTNER)
    checkins_create.sync(visitor_id, client=client, body=checkin)
    optin = m.OptinNew(
        optin_channel=m.OptinNewOptinChannel.EMAIL, optin_type=m.OptinNewOptinType.LOYALTY, is_active=True
    )
    assert optins_create.sync(visitor_id, client=client, body=optin).data.is_active
    texts = [m.TranslationNew(locale_code="fr-FR", value="10 000 pas")]
    new_challenge = m.ChallengeNew(
        pc_code=pc_code, generic_name="Steps", type_=m.ChallengeNewType.STEP_COUNTER,
        status=m.ChallengeNewStatus.ACTIVE, start_date=now.replace(year=now.year - 1, day=1),
        end_date=now.replace(year=now.year + 1, day=1), winner_number=1, display_name=texts, description=texts,
        reward_detail=texts,
    )  # fmt: skip
    challenge = challenges_create.sync(client=client, body=new_challenge).data
    joining = m.VisitorChallengeNew(challenge_id=challenge.challenge_id)
    participant = visitor_challenges_create.sync(visitor_id, client=client, body=joining).data
    added = visitor_challenges_add_points.sync_detailed(
        visitor_id, participant.visitor_challenge_id, client=client, body=m.Points(points=10)
    )
    assert added.status_code == 204
    standing = rankings_list.sync(visitor_id, client=client).data[0].top_ranking[0]
    parking = parkings_create.sync(
        visitor_id, client=client, body=m.ParkingNew(parking_partner=m.ParkingPartner.DESIGNA)
    )
    new_card = m.CardNew(
        first_name="Ada", last_name="Martin", year=2030, month=11, fingerprint="f", card_type=m.CardNewCardType.VISA,
        first_six_digits="424242", last_four_digits="4242", payment_method_token="token",
    )  # fmt: skip
    card = credit_cards_create.sync(visitor_id, client=client, body=new_card)
    history = m.HistoryNew(
        parking_id=parking.data.parking_id, card_id=card.data.card_id, pc_code=pc_code,
        currency=m.HistoryNewCurrency.EUR, access_device=plate, amount=12, transaction_full_amount=12.5,
    )  # fmt: skip
    assert parking_histories_create.sync(visitor_id, client=client, body=history).data.transaction_full_amount == 12.5
    month = parking_histories_summary.sync(visitor_id, client=client, timezone="Europe/Paris").data[0]
    ids = external_ids_list.sync(visitor_id, client=client).data
    analytics_id = next(row.external_id for row in ids if row.external_type == "analytics")
    erased = visitors_erase_by_analytics_id.sync(client=client, body=[m.Erasure(analytics_id=analytics_id)]).data
    return [standing.position, standing.points, month.total_amount, erased.success == [analytics_id]]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))  # noqa: T201
