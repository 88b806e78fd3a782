// A tour with the client that oapi-codegen generates. Arguments: URL, pcCode, email, licence plate.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"visitor-interop/client/api"

	"github.com/oapi-codegen/runtime/types"
)

// must returns the answer of a call whose status is as expected, and ends the program otherwise.
func must[Answer interface{ StatusCode() int }](status int) func(Answer, error) Answer {
	return func(answer Answer, err error) Answer {
		if err != nil {
			panic(err)
		}
		if answer.StatusCode() != status {
			panic(fmt.Sprintf("%T has the status %d", answer, answer.StatusCode()))
		}
		return answer
	}
}

func pointer[Value any](value Value) *Value { return &value }

func main() {
	url, pcCode, email, plate := os.Args[1], os.Args[2], types.Email(os.Args[3]), os.Args[4]
	ctx := context.Background()
	client, err := api.NewClientWithResponses(url)
	if err != nil {
		panic(err)
	}
	must[*api.CentersCreateResponse](201)(client.CentersCreateWithResponse(ctx, nil, api.CenterNew{
		Label: "Les 4 Temps", Country: "FR", IsWestfield: true, PcCode: pcCode,
	}))
	visitor := must[*api.VisitorsCreateResponse](201)(client.VisitorsCreateWithResponse(ctx, nil, api.VisitorNew{
		FirstName: "Ada", LastName: "Martin", Email: email, Gender: api.VisitorNewGenderF, CountryCode: "FR",
		AcquisitionPcCode: pcCode, Optins: []api.OptinNew{},
	}))
	visitorId := visitor.JSON201.Data.VisitorId
	must[*api.VehiclesCreateResponse](201)(client.VehiclesCreateWithResponse(ctx, visitorId, nil, api.VehicleFields{
		LicensePlate: plate,
	}))
	visit := must[*api.VisitsCreateResponse](201)(client.VisitsCreateWithResponse(
		ctx, api.VisitsCreateParamsVisitTypeEntry, nil, api.VisitNew{PcCode: pcCode, LicensePlate: &plate},
	))
	if visit.JSON201.VisitorId != visitorId {
		panic("the visit is that of another visitor")
	}
	service := must[*api.ServicesCreateResponse](201)(client.ServicesCreateWithResponse(ctx, nil, api.ServiceNew{
		PcCode: pcCode, Name: "Cloakroom", Category: "comfort", UseRate: "free", DaysOfUse: []int64{1, 2},
		ColorCode: "#336699",
	}))
	must[*api.CheckinsCreateResponse](201)(client.CheckinsCreateWithResponse(ctx, visitorId, nil, api.CheckinNew{
		PcCode: pcCode, ServiceId: service.JSON201.Data.ServiceId, Origin: api.CheckinNewOriginPartner,
	}))
	optin := must[*api.OptinsCreateResponse](201)(client.OptinsCreateWithResponse(ctx, visitorId, nil, api.OptinNew{
		OptinChannel: api.OptinNewOptinChannelEmail, OptinType: api.OptinNewOptinTypeLoyalty, IsActive: true,
	}))
	if !optin.JSON201.Data.IsActive {
		panic("the optin is not active")
	}

	texts := []api.TranslationNew{{LocaleCode: "fr-FR", Value: "10 000 pas"}}
	now := time.Now()
	challenge := must[*api.ChallengesCreateResponse](201)(client.ChallengesCreateWithResponse(ctx, nil, api.ChallengeNew{
		PcCode: pcCode, GenericName: "Steps", Type: api.ChallengeNewTypeStepCounter,
		Status: api.ChallengeNewStatusActive, StartDate: now.AddDate(-1, 0, 0), EndDate: now.AddDate(1, 0, 0),
		WinnerNumber: 1, DisplayName: texts, Description: texts, RewardDetail: texts,
	}))
	participant := must[*api.VisitorChallengesCreateResponse](201)(client.VisitorChallengesCreateWithResponse(
		ctx, visitorId, nil, api.VisitorChallengeNew{ChallengeId: challenge.JSON201.Data.ChallengeId},
	))
	must[*api.VisitorChallengesAddPointsResponse](204)(client.VisitorChallengesAddPointsWithResponse(
		ctx, visitorId, participant.JSON201.Data.VisitorChallengeId, nil, api.Points{Points: 10},
	))
	rankings := must[*api.RankingsListResponse](200)(client.RankingsListWithResponse(ctx, visitorId, nil))
	standing := rankings.JSON200.Data[0].TopRanking[0]

	parking := must[*api.ParkingsCreateResponse](201)(client.ParkingsCreateWithResponse(ctx, visitorId, nil, api.ParkingNew{
		ParkingPartner: api.ParkingPartnerDesigna,
	}))
	card := must[*api.CreditCardsCreateResponse](201)(client.CreditCardsCreateWithResponse(ctx, visitorId, nil, api.CardNew{
		FirstName: "Ada", LastName: "Martin", Year: 2030, Month: 11, Fingerprint: "f", CardType: api.CardNewCardTypeVisa,
		FirstSixDigits: "424242", LastFourDigits: "4242", PaymentMethodToken: "token",
	}))
	history := must[*api.ParkingHistoriesCreateResponse](201)(client.ParkingHistoriesCreateWithResponse(
		ctx, visitorId, nil, api.HistoryNew{
			ParkingId: parking.JSON201.Data.ParkingId, CardId: card.JSON201.Data.CardId, PcCode: pcCode,
			Currency: api.HistoryNewCurrencyEUR, AccessDevice: plate, Amount: pointer(int64(12)),
			TransactionFullAmount: pointer(12.5),
		},
	))
	if *history.JSON201.Data.TransactionFullAmount != 12.5 {
		panic("the amount has changed")
	}
	summary := must[*api.ParkingHistoriesSummaryResponse](200)(client.ParkingHistoriesSummaryWithResponse(
		ctx, visitorId, &api.ParkingHistoriesSummaryParams{Timezone: "Europe/Paris"},
	))
	ids := must[*api.ExternalIdsListResponse](200)(client.ExternalIdsListWithResponse(ctx, visitorId, nil))
	analyticsId := ""
	for _, row := range ids.JSON200.Data {
		if row.ExternalType == "analytics" {
			analyticsId = row.ExternalId
		}
	}
	erased := must[*api.VisitorsEraseByAnalyticsIdResponse](200)(client.VisitorsEraseByAnalyticsIdWithResponse(
		ctx, nil, []api.Erasure{{AnalyticsId: analyticsId}},
	))
	success := erased.JSON200.Data.Success
	output, _ := json.Marshal([]any{
		standing.Position, standing.Points, summary.JSON200.Data[0].TotalAmount, len(success) == 1 && success[0] == analyticsId,
	})
	fmt.Println(string(output))
}
