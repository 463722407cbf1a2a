// Package operate is the operators' HTTP API of AI calls: budgets, usage, what is
// credential. Its contract is openapi.json, served at /admin/ai/openapi.json.
//
//	GET    /admin/v1/ai/budgets                       how budgets stand; ?tenant= &app= &key= &after= &limit=
//	GET    /admin/v1/ai/budgets/{id}                  one of them
//	PUT    /admin/v1/ai/budgets/{id}                  make or change one
//	DELETE /admin/v1/ai/budgets/{id}
//	GET    /admin/v1/ai/usage                         sums; ?from= &to= &by=tenant,model &tenant= &app= &key=
//	GET    /admin/v1/ai/uncertain                     attempts of which nobody knows what they cost
//	POST   /admin/v1/ai/uncertain/{call}/{attempt}    {"cost_usd": "0.05", "note": ""} or {"note": ""} for nothing
//	GET    /admin/v1/ai/prices/{provider}/{model}     what a model costs
//	GET    /admin/v1/ai/prompts                       prompts and what their channels stand for; ?tenant=
//	GET    /admin/v1/ai/prompts/{reference}           one version; ?tenant=
//	POST   /admin/v1/ai/prompts                       publish a version; ?tenant=
//	PUT    /admin/v1/ai/prompts/{slug}/{channel}      {"version": 3}; ?tenant=
package operate
